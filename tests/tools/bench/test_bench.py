"""Check that every measurement runs, takes turns, writes what a reader needs, and refuses the impossible in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dadapt_dist as dd
from dadapt_dist.kernels import cpu_c
from dadapt_dist.kernels.traced_method import in_order, touched
from dadapt_dist.methods import METHODS
from dadapt_dist.tools.bench import memory, overlap, shapes
from dadapt_dist.tools.bench.peers import OURS, Peer, peers_of
from dadapt_dist.tools.bench.step import interleaved, turns
from dadapt_dist.tools.bench.traffic import traffic
from dadapt_dist.tools.cli import app
from tests.helpers.classes import ALL, ALWAYS_BEFORE, COMPILED

FACTS = {"command", "python", "torch", "processor", "cores", "threads", "load", "gpu"}


def bench(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def written(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert set(content["facts"]) >= FACTS
    assert content["rows"]
    return dict(content)


def test_step_measures_ours_and_every_peer_beside_the_limit(tmp_path: Path) -> None:
    path, plot = tmp_path / "a.json", tmp_path / "a.png"
    done = bench(
        "step", "--shape", "3000", "--rounds", "3", "--backend", "auto,eager", "--json", str(path), "--plot", str(plot)
    )
    assert done.exit_code == 0, done.output
    content = written(path)
    rows = {row["name"]: row for row in content["rows"]}
    assert {"ours, auto", "ours, eager", "AdamW fused", "AdamW foreach", "AdamW for loop", "prodigyopt"} <= rows.keys()
    assert all(len(row["times"]) == 3 for row in rows.values())
    assert rows["AdamW fused"]["of_adamw"] == 1.0
    assert rows["ours, auto"]["state"] == 16
    if cpu_c.available():
        limit = rows["memory alone, 10 words"]
        assert rows["ours, auto"]["of_limit"] == pytest.approx(rows["ours, auto"]["ms"] / limit["ms"])
    named = {line.split(":")[0] for line in content["facts"]["missing"]}
    assert named == {peer.name for peer in peers_of("prodigy") if not peer.is_installed}
    assert all(f"Not installed: {name}" in done.output for name in named)
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize("method", ALL)
def test_every_method_is_measured(method: str) -> None:
    done = bench("step", "--method", method, "--shape", "500", "--rounds", "1", "--markdown")
    assert done.exit_code == 0, done.output
    assert "| ours, auto |" in done.output
    ways, kind = shapes.passes(method), METHODS[method]()
    buffers = kind.buffers(OURS[method]([nn.Parameter(torch.ones(1))]).defaults)
    assert len(ways) == 1 + (method in ALWAYS_BEFORE)
    assert ways[-1].written == sum(name not in kind.read_only for name in buffers)
    assert ways[-1].x == "written"
    assert ways[-1].read + ways[-1].written <= len(buffers)
    assert all(way.written == 0 and way.x != "written" for way in ways[:-1])


def test_the_words_are_those_of_the_kernels() -> None:
    expected = {
        "prodigy": 10,
        "dadapt_adam": 9,
        "dadapt_sgd": 6,
        "dadapt_adagrad": 8,
        "dadapt_adan": 13,
        "dadapt_lion": 7,
        "cocob": 12,
        "dog": 3 + 3,  # x, g and x0 before the step; x is written in it
        "ngn": 2 + 7,
        "mechanic_adam": 3 + 10,  # Δ is known before the step: no buffer of Adam is read for its sums
        "trac_adam": 2 + 10,
    }
    assert {method: shapes.words(method) for method in expected} == expected


def test_every_method_is_measured_beside_the_memory_that_it_must_move(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done = bench("step", "--method", "all", "--shape", "5000", "--rounds", "2", "--json", str(path))
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in written(path)["rows"]}
    assert rows.keys() == set(COMPILED)
    assert all(len(row["times"]) == 2 and row["words"] == shapes.words(name) for name, row in rows.items())
    if cpu_c.available():
        assert all(row["of_limit"] == pytest.approx(row["ms"] / row["limit"]) for row in rows.values())


def test_a_method_that_cannot_be_recorded_is_taken_to_touch_everything() -> None:
    def update(self: Any, x: Any, g: Any, buf: Any, c: Any, cut: Any) -> Any:
        return (x,) if bool((g == 0).all()) else ()

    own = type("Own", (METHODS["cocob"],), {"update": update})()
    fields = in_order(own, ("x0", "coins"))
    everything = frozenset(("x", "g", ".x0", ".coins"))
    assert touched(own, fields, {}) == ((everything, frozenset()), (everything, frozenset(("x", "coins"))))


def test_the_shapes_are_what_the_documents_say() -> None:
    sizes = {name: (len(shapes), sum(torch.Size(s).numel() for s in shapes)) for name, shapes in shapes.SHAPES.items()}
    assert sizes["tensors"][0] == 290
    assert sizes["tensors"][1] == pytest.approx(25e6, rel=0.01)
    assert sizes["flat"] == (1, 20_000_000)
    assert sizes["tiny"] == (1000, 100_000)


def test_no_one_always_follows_the_same_one() -> None:
    order = list(turns(["a", "b", "c"], 3))
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    log: list[str] = []
    taken = interleaved({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, 2, "cpu")
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}
    assert log == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_traffic_reads_and_writes_what_it_says() -> None:
    if not cpu_c.available():
        pytest.skip("no C compiler")
    x, g, a, b = (torch.ones(5000) * k for k in (2, 3, 4, 5))
    traffic([[x, g, a, b]], 1, 0.5)  # a is written, b read, as in D-Adapt SGD
    assert torch.equal(g, torch.full((5000,), 3.0))
    assert torch.equal(b, torch.full((5000,), 5.0))
    assert torch.equal(a, torch.full((5000,), 2.0))
    assert torch.equal(x, torch.full((5000,), 1.0))
    for way in ("", "read"):
        traffic([[x, g, a, b]], 0, 0.5, way)
    assert torch.equal(x, torch.full((5000,), 1.0))


@pytest.mark.matrix
def test_memory_tells_state_and_peak_of_every_option(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    done = bench("memory", "--params", "300000", "--json", str(path))
    assert done.exit_code == 0, done.output
    rows = {(row["name"], row["options"], row["dtype"]): row for row in written(path)["rows"]}
    assert rows["prodigy", "", "float32"]["state"] == 16
    assert rows["prodigy", "statistics_dtype=torch.bfloat16", "float32"]["state"] == 14
    assert rows["prodigy", "statistics_dtype=torch.bfloat16", "bfloat16"]["state"] == 12
    assert rows["prodigy", "state_dtype=torch.bfloat16", "bfloat16"]["state"] == 8
    assert rows["prodigy", "freeze_after=2", "float32"]["state"] == 8
    assert rows["prodigy", "betas=(0.0, 0.999)", "float32"]["state"] == 12
    assert rows["prodigy", "slice_p=11", "float32"]["state"] == pytest.approx(8 + 8 / 11, abs=0.01)
    assert rows["prodigyopt", "", "float32"]["peak"] > 90


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", COMPILED)
def test_a_step_has_no_temporary_as_large_as_a_parameter(
    method: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_c.available():
        pytest.skip("no C compiler")
    monkeypatch.setattr("dadapt_dist.kernels.eager.CPU_BLOCK", 1 << 12)  # its temporaries are blocks: many of them here
    eager = 40 if method in ALWAYS_BEFORE else 30  # the sums before a step are float64
    for backend, percent in (("c", 0.1), ("eager", eager)):
        of_rule, peak = (
            _peak(method, size, dtype, backend) for size in (1, 600_000)
        )  # its scalars are temporaries too
        assert 100 * (peak - of_rule) / (600_000 * dtype.itemsize) <= percent, backend


def _peak(method: str, size: int, dtype: torch.dtype, backend: str) -> int:
    """The bytes of the temporaries of a step over so many elements."""
    p = nn.Parameter(torch.randn(size).to(dtype))
    p.grad = torch.randn(size).to(dtype)
    optimizer = OURS[method]([p], backend=backend)
    for _ in range(3):
        optimizer.step()
    return memory.peak(optimizer.step, "cpu")


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_computing_a_step_twice_copies_no_parameter(nonfinite: str) -> None:
    p = nn.Parameter(torch.randn(600_000))
    p.grad = torch.randn(600_000)
    optimizer = dd.Prodigy([p], nonfinite=nonfinite)  # type: ignore[arg-type]
    for _ in range(3):
        optimizer.step()
    assert memory.peak(optimizer.step, "cpu") <= 0.1 * p.numel() * 4


def test_scale_measures_many_ranks_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    done = bench("scale", "--ranks", "8,64", "--tensors", "3,20", "--steps", "2", "--json", str(path))
    assert done.exit_code == 0, done.output
    rows = written(path)["rows"]
    assert {(row["ranks"], row["tensors"], row["kind"]) for row in rows} == {
        (ranks, tensors, kind) for ranks in (8, 64) for tensors in (3, 20) for kind in ("plain", "DTensor")
    }
    assert all(row["step"] > 0 and row["adamw"] > 0 for row in rows)


def test_sync_without_an_emulated_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "why_not", lambda: "there is no tap device")
    report = overlap.measure([2], [20.0], 5.0, 3, 2)
    assert [row["mode"] for row in report.rows] == ["none", "next_step", "step"]
    assert report.rows[0]["added"] == 0
    assert report.rows[0]["delay"] == 0
    assert report.notes == ["Without added latency, over the loopback interface: there is no tap device."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("step", "--method", "prodgy"), "--method prodgy is not one of adagrad_pp, "),
        (("step", "--shape", "big"), "--shape big is neither a number of parameters nor one of tensors, flat, tiny"),
        (("step", "--dtype", "int8"), "--dtype int8 is not one of float32"),
        (("step", "--shape", "10", "--backend", "cuda"), "backend='cuda' is not one of 'auto', 'c', 'triton', 'eager'"),
        (("step", "--device", "tpu"), "--device tpu is neither cpu nor cuda"),
        (("sync", "--ranks", "1"), "--ranks must be 2 or more"),
        (("sync", "--latency-ms", "fast"), "must be numbers separated by commas"),
        (("scale", "--tensors", "many"), "must be numbers separated by commas"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_peer_is_found_by_its_module() -> None:
    assert Peer("x", "prodigyopt", list).is_installed
    assert not Peer("x", "no-such-package (no_such_module)", list).is_installed
