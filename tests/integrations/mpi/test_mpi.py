"""Check that d over MPI, without torch.distributed, is that of one process, with one nonblocking reduction per step."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.classes import SETTINGS, WITH_D, first_d, method_of
from tests.helpers.collectives import reduces_of
from tests.helpers.launchers import EACH_MPI, MPIS, ROOT, run
from tests.helpers.layout_runs import of_oracle
from tests.helpers.mpi_runs import FIRST, STEPS, WAYS, gradients, starts
from tests.helpers.once import whole_once
from tests.helpers.oracles import ORACLES

pytestmark = MPIS["mpich"].needed
RANKS = {"mpich": 3, "openmpi": 2, "intel": 2}


def over_mpi(folder: Path, name: str, **env: str) -> list[dict[str, Any]]:
    mpi, ranks = MPIS[name], RANKS[name]
    line = [mpi.mpiexec, *mpi.options, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "tests.helpers.mpi_runs"]
    done = run(line, folder, **mpi.env, **env)
    assert done.returncode == 0, done.stderr
    return found_in(folder, name)


def found_in(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(RANKS[name])]


@pytest.fixture(scope="module", params=EACH_MPI)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the ranks have found, in one run for all processes of pytest."""
    with whole_once(tmp_path_factory, f"mpi-{request.param}") as (folder, is_new):
        return over_mpi(folder, request.param) if is_new else found_in(folder, request.param)


def expected(method: str, before: str) -> tuple[list[float], list[torch.Tensor]]:
    options = of_oracle({**first_d(method, FIRST), **SETTINGS.get(method, {})})
    oracle, ds = ORACLES[method_of(method)](starts(), lagged=before == "lagged", **options), []
    for step in range(STEPS):
        oracle.step(gradients(step, oracle.params))
        ds.append(oracle.d)
    return ds, oracle.params


@pytest.mark.parametrize("kind", ["replicas", "shards"])
@pytest.mark.parametrize(("method", "before"), WAYS)
def test_every_method_follows_one_process_bit_equal_on_all_ranks(
    results: list[dict[str, Any]], method: str, before: str, kind: str
) -> None:
    ds, params = expected(method, before)
    for found in results:
        d, own = found["runs"][method, before, kind]
        assert d == results[0]["runs"][method, before, kind][0], "d differs between ranks"
        assert [float.fromhex(one) for one in d] == pytest.approx(ds, rel=1e-12, nan_ok=method_of(method) not in WITH_D)
        for a, b in zip(own, params, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert ds[-1] > 1.2 * ds[0] or method_of(method) not in WITH_D


def test_one_reduction_a_step_and_no_torch_distributed(results: list[dict[str, Any]]) -> None:
    for found in results:
        for (method, before), counts in found["counted"].items():  # the first also adds up what placing has counted
            assert counts[1:] == [reduces_of(method, lagged=before == "lagged")] * 3
        assert found["threads"]
        assert not found["distributed"]


def test_a_step_waits_for_nobody(results: list[dict[str, Any]]) -> None:
    step, reading = results[0]["exposed"]
    assert step < 0.15 < reading


def test_a_saved_run_goes_on_bit_for_bit(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert all(whole == resumed for whole, resumed in found["resumed"])


def test_a_gradient_of_one_rank_that_is_not_finite_is_seen_by_all(results: list[dict[str, Any]]) -> None:
    assert [found["skipped"] for found in results] == [(True, 1)] * len(results)


@MPIS["openmpi"].needed
def test_where_only_one_thread_may_call_mpi_it_is_waited_for(tmp_path: Path) -> None:
    found = over_mpi(tmp_path, "openmpi", SINGLE="1")
    assert not any(one["threads"] for one in found)
    for way, (d, _) in found[0]["runs"].items():
        assert d == found[1]["runs"][way][0]
        assert float.fromhex(d[-1]) == pytest.approx(expected(*way[:2])[0][-1], rel=1e-12, nan_ok=way[0] not in WITH_D)


# ---------------------------------------------------------------- errors

PROGRAM = "from dadapt_dist.mpi import MPILayout; MPILayout()"


@pytest.mark.parametrize(
    ("env", "broken", "said"),
    [
        (
            {},
            "raise ImportError('not here')",
            "mpi4py and an MPI are needed .not here.: pip install 'dadapt-dist.mpi.'",
        ),
        ({}, "def __getattr__(n):\n raise RuntimeError('no libmpi')", "no libmpi.: pip install mpich"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None, "env started 2 processes and MPI sees 1: start them with the mpiexec"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            None,
            "the launcher .openmpi. started 2 processes and MPI sees 1",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_an_error(
    tmp_path: Path, env: dict[str, str], broken: str | None, said: str
) -> None:
    if broken is not None:
        (tmp_path / "mpi4py.py").write_text(broken)
    done = run([sys.executable, "-c", PROGRAM], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}", **env)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dadapt_dist.errors.LaunchError")
    assert re.search(said, last), last


def test_a_layout_over_mpi_cannot_be_pickled(tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-c", f"import pickle; {PROGRAM.replace('MPILayout()', 'pickle.dumps(MPILayout())')}"],
        tmp_path,
    )
    assert "cannot be pickled" in done.stderr
