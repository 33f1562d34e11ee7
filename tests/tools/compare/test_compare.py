"""Check `dadapt-dist compare`: a user's task from start to table, resumed, judged, and asked for what cannot be."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from dadapt_dist.tools.cli import app
from dadapt_dist.tools.compare import contenders
from dadapt_dist.tools.compare.command import Request, run_compare
from dadapt_dist.tools.suite import catalogue, language
from dadapt_dist.tools.suite.rates import parse_rates
from dadapt_dist.tools.suite.statistics import Paired, paired
from dadapt_dist.tools.suite.train import Run, train
from dadapt_dist.tools.suite.variants import Variant
from tests.helpers.loss_methods import of_toy
from tests.helpers.registered import registrations_undone

TASK = '''
import torch
from torch import nn
from torch.nn import functional as F

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])


def loss(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def make(seed):
    batches = torch.utils.data.DataLoader(list(zip(X[:40], Y[:40])), 10, shuffle=True)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)), batches, loss, [(X[40:], Y[40:])]


def shuffled(seed):
    return nn.Linear(4, 1), torch.utils.data.DataLoader(list(zip(X, Y)), 10, shuffle=True), loss


def accuracy(seed):
    return nn.Linear(4, 1), [(X, Y)], loss, lambda model: float(loss(model, (X, Y))) - 100


def normalised(seed):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    return model, [(5 + X, Y)], loss, lambda trained: float(trained[0].running_mean.mean())


def once(seed):
    return nn.Linear(4, 1), iter([(X, Y)] * 3), loss


def odd(seed):
    return nn.Linear(4, 1), [(X, Y)], lambda model, batch: model(batch[0])


def short(seed):
    return nn.Linear(4, 1), [(X, Y)]


def broken(seed):
    return {}["data"]


class NeedsLoss(torch.optim.SGD):
    def step(self, closure=None, loss=None):
        assert loss is not None and not loss.requires_grad
        return super().step(closure)


class Draws(torch.optim.SGD):
    def step(self, closure=None):
        torch.rand(3)
        return super().step(closure)


class Averages(torch.optim.SGD):
    """Judged at weights of 0."""
    def train(self):
        self.trains = True

    def eval(self):
        assert self.trains
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.zero_()


def needs_loss(params, steps):
    return NeedsLoss(params, lr=0.01)


def draws(params, steps):
    return Draws(params, lr=0.0)


def averages(params, steps):
    return Averages(params, lr=0.01)


def mine(params, steps, lr=0.05):
    return torch.optim.SGD(params, lr=lr)


def fails(params, steps):
    raise KeyError("momentum")
'''
SMALL = ["--steps", "6", "--seeds", "2", "--method", "prodigy", "--method", "cocob", "--rates", "1e-3..1e-1x3"]
RUNS = 2 * (2 + 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's module `users_tasks`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "users_tasks.py").write_text(TASK)
    return folder


@pytest.fixture(autouse=True)
def found(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    yield
    catalogue.task_of.cache_clear()
    sys.modules.pop("users_tasks", None)


def compare(out: Path, *options: object, task: str = "users_tasks:make", small: bool = True) -> tuple[int, str, str]:
    line = ["compare", task, "--out", str(out), "--jobs", "1", *(SMALL if small else ()), *map(str, options)]
    result = CliRunner().invoke(app, line)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines() if line]


def losses(out: Path) -> dict[tuple[str, int], float]:
    return {(r["variant"], r["seed"]): r["loss"] for r in records(out)}


def figures(out: Path) -> dict[str, dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((out / "results.json").read_text(), parse_constant=refuse)
    return {row["method"]: row for row in content["methods"]}


@pytest.fixture(scope="module")
def done(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that was run as a user would, on two processes."""
    out = tmp_path_factory.mktemp("compare") / "out"
    line = ["compare", "users_tasks:make", "--out", str(out), *SMALL, "--jobs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", [*sys.path])
        finished = CliRunner().invoke(app, line)
    assert finished.exit_code == 0, finished.output
    assert f"compare: {RUNS} runs of 6 steps, 0 of them done; 2 processes" in finished.stderr
    assert f"{RUNS}/{RUNS}" in finished.stderr  # progress is no part of the table
    assert finished.stdout.startswith(
        "users_tasks:make, 6 steps, 2 seeds, judged by held-out loss; the best of the tuned is adamw, "
    )
    return out


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_comparison_counts_the_runs_beside_the_quality(done: Path) -> None:
    assert {variant for variant, _ in losses(done)} == {
        "adamw at 0.001", "adamw at 0.01", "adamw at 0.1", "prodigy", "cocob",
    }  # fmt: skip
    rows = figures(done)
    assert {name: row["runs_a_seed"] for name, row in rows.items()} == {"adamw": 3, "prodigy": 1, "cocob": 1}
    best = rows["adamw"]
    assert best["loss"] == min(sum(row["by_seed"]) / 2 for row in best["losses"])
    assert rows["cocob"]["excess"] == pytest.approx(rows["cocob"]["loss"] / best["loss"] - 1)
    at_best = next(row["by_seed"] for row in best["losses"] if row["lr"] == best["lr"])
    differences = [a - b for a, b in zip(rows["prodigy"]["losses"][0]["by_seed"], at_best, strict=True)]
    assert rows["prodigy"]["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    assert (done / "curve.png").stat().st_size > 10_000
    assert "| adamw, best of 3: lr " in (done / "report.md").read_text()


def test_one_process_gives_the_same_losses_as_two(done: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    code, _, text = compare(tmp_path / "one")
    assert code == 0, text
    assert losses(tmp_path / "one") == losses(done)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_second_start_goes_on_and_warns_of_a_task_that_has_changed(done: Path, tmp_path: Path, home: Path) -> None:
    out = copied(done, tmp_path / "out")
    whole = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(whole[:-30])  # a kill while it wrote
    (home / "users_tasks.py").write_text(TASK + "# another\n")
    try:
        code, table, text = compare(out, "--tuned", "adamw", "--tuned", "sgd:momentum=0.5,lr=0.01..0.1x2")
    finally:
        (home / "users_tasks.py").write_text(TASK)
    assert code == 0, text
    assert "users_tasks.py has changed since the first runs" in text
    assert f"compare: {RUNS + 4} runs of 6 steps, {RUNS - 1} of them done" in text
    assert {key: loss for key, loss in losses_of_whole(out).items() if key in losses(done)} == losses(done)
    assert "| sgd:momentum=0.5, best of 2: lr " in table


def losses_of_whole(out: Path) -> dict[tuple[str, int], float]:
    """Without the line that is torn."""
    found = {}
    for line in (out / "runs.jsonl").read_text().splitlines():
        if line.endswith("}"):
            record = json.loads(line)
            found[record["variant"], record["seed"]] = record["loss"]
    return found


def test_runs_of_one_seed_begin_alike_and_see_the_same_batches_whatever_the_optimizer_draws(tmp_path: Path) -> None:
    still = (
        "--method",
        "users_tasks:draws",
        "--method",
        "sgd:lr=0.0",
        "--tuned",
        "none",
        "--steps",
        "9",
        "--seeds",
        "2",
    )
    code, _, text = compare(tmp_path / "out", *still, task="users_tasks:shuffled", small=False)
    assert code == 0, text
    by = {(r["variant"], r["seed"]): r["curve"] for r in records(tmp_path / "out")}
    assert by["users_tasks:draws", 0] == by["sgd:lr=0.0", 0] != by["sgd:lr=0.0", 1]


def test_an_optimizer_gets_the_loss_and_is_judged_in_evaluation(tmp_path: Path) -> None:
    methods = ("--method", "users_tasks:needs_loss", "--method", "users_tasks:averages", "--tuned", "none")
    code, _, text = compare(tmp_path / "out", *methods, "--steps", 3, "--seeds", 1, small=False)
    assert code == 0, text
    judge = catalogue.task_of("users_tasks:make").begin(0).evaluate
    zero = torch.nn.Linear(4, 1)
    for p in zero.parameters():
        torch.nn.init.zeros_(p).requires_grad_(False)
    assert losses(tmp_path / "out")["users_tasks:averages", 0] == pytest.approx(judge(zero), rel=1e-6)


def test_batch_normalisation_is_measured_anew_for_the_weights_that_are_judged(tmp_path: Path) -> None:
    runs = {}
    for name in ("mine", "averages"):
        runs[name] = train(Run("users_tasks:normalised", Variant(name, f"users_tasks:{name}"), 0, 3), tmp_path)["loss"]
    assert runs["mine"] == pytest.approx(5 * (1 - 0.9**3), rel=0.1)
    assert runs["averages"] == pytest.approx(5, rel=0.1)


def test_a_method_with_an_estimate_for_each_tensor_takes_part(tmp_path: Path) -> None:
    row = contenders.untuned("ldog", "warmup").variants[0]
    assert train(Run("users_tasks:make", row, 0, 3), tmp_path)["d"] is None


def test_a_loss_aware_method_gets_the_loss(tmp_path: Path, library_log: pytest.LogCaptureFixture) -> None:
    with registrations_undone():
        of_toy("polyak")
        moved, stayed = (
            train(Run("users_tasks:make", contenders.untuned(name, "warmup").variants[0], 0, 3), tmp_path)["curve"]
            for name in ("polyak", "sgd:lr=0.0")
        )
    assert moved[0] == stayed[0]
    assert moved[1:] != stayed[1:]  # its rate is 0 without a loss
    assert "no rank gave the loss" not in library_log.text


def test_what_diverges_is_said_and_is_never_the_best(tmp_path: Path) -> None:
    given = ("--tuned", "sgd", "--rates", "0.01,1e30", "--method", "sgd:lr=1e30", "--steps", "6", "--seeds", "2")
    code, table, text = compare(tmp_path / "out", *given, small=False)
    assert code == 0, text
    assert "sgd: 2 of 4 runs diverged." in table
    assert "sgd:lr=1e30: 2 of 2 runs diverged." in table
    rows = figures(tmp_path / "out")
    assert (rows["sgd"]["lr"], rows["sgd"]["at_edge"]) == (0.01, True)
    assert rows["sgd:lr=1e30"]["loss"] is None


def test_what_is_better_than_all_that_are_tuned_is_compared_with_the_best_of_them(tmp_path: Path) -> None:
    given = ("--tuned", "adamw", "--rates", "1e-9,1e-8", "--method", "sgd:lr=0.1", "--steps", 6, "--seeds", 2)
    code, table, text = compare(tmp_path / "out", *given, small=False)
    assert code == 0, text
    assert "the best of the tuned is adamw, best of 2: lr 1e-0" in table
    row = figures(tmp_path / "out")["sgd:lr=0.1"]
    assert row["excess"] < 0
    assert row["difference"]["lower"] == 2


def test_a_judgement_of_any_sign_is_compared_by_differences(tmp_path: Path) -> None:
    code, table, text = compare(tmp_path / "out", task="users_tasks:accuracy")
    assert code == 0, text
    assert "judged by its own function" in table
    assert "%" not in table
    assert figures(tmp_path / "out")["prodigy"]["difference"]["seeds"] == 2


def test_a_task_of_the_suite_is_compared_too(tmp_path: Path) -> None:
    given = ("--steps", 2, "--seeds", 1, "--method", "prodigy:recipe=auto,total_steps=none")
    code, table, text = compare(tmp_path / "out", *given, "--rates", "1e-3", task="recommender", small=False)
    assert (code, table) == (2, "")
    assert "needs total_steps" in text or "total_steps" in text
    code, table, text = compare(
        tmp_path / "out", "--steps", 2, "--seeds", 1, "--rates", "1e-3", task="recommender", small=False
    )
    assert code == 0, text
    assert "| prodigy:recipe=auto" in table


def test_a_task_that_begins_from_a_trained_model_trains_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "BASE_STEPS", 2)
    request = Request("lora", tmp_path / "out", methods=("dog",), tuned=("none",), steps=2, seeds=1, jobs=1)
    assert run_compare(request, Console(), Console(stderr=True)) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--method", "magic"],
            "--method magic: no optimizer is called 'magic'; give module:function, or one of adagrad-pp",
        ),
        (["--method", "lbfgs"], "no optimizer is called 'lbfgs'"),
        (["--method", "prodigy:recipe"], "'recipe' must be option=value"),
        (
            ["--method", "prodigy:d_0=1"],
            "prodigy:d_0=1 cannot be made: Prodigy: unknown keyword 'd_0'; did you mean",
        ),
        (["--method", "prodigy:d0=-1"], "d0=-1 is out of range"),
        (["--method", "no_such:make"], "--method no_such:make cannot be imported"),
        (
            ["--method", "users_tasks:fails"],
            "users_tasks:fails cannot be made: KeyError: 'momentum' (users_tasks.py, line",
        ),
        (["--method", "prodigy", "--method", "prodigy"], "prodigy is given twice"),
        (["--tuned", "adamw:lr=fast"], "--tuned adamw:lr=fast: lr fast must be numbers"),
        (["--rates", "1e-3..1"], "--rates 1e-3..1 must be numbers separated by commas"),
        (["--rates", "1..1e-3x5"], "must rise"),
        (["--rates", "0,1"], "must be positive"),
        (
            ["--schedule", "sometimes"],
            "--schedule sometimes must be constant, warmup, linear, cosine, or a schedule file",
        ),
        (["--schedule", "missing.json"], "missing.json"),
        (["--steps", "0"], "--steps 0 must be from 1"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--steps", "7"], "holds results of steps 6, not 7"),
    ],
)
def test_what_cannot_be_is_one_line_and_loses_nothing(
    options: list[str], words: str, done: Path, tmp_path: Path
) -> None:
    out = copied(done, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, table, text = compare(out, *options)
    assert (code, table) == (2, "")
    assert text.startswith("error: ")
    assert words in text
    assert len(text.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("users_tasks", "task 'users_tasks' is unknown: give module:function, or one of transformer"),
        ("users_tasks:none", "task users_tasks:none cannot be imported"),
        ("users_tasks:X", "it must be a function of (seed), that returns (model, batches, loss)"),
        ("users_tasks:short", "users_tasks:short returned tuple; it must be a function of (seed), that returns"),
        ("users_tasks:broken", "users_tasks:broken does not work: KeyError: 'data' (users_tasks.py, line"),
        ("users_tasks:odd", "it must be a scalar tensor with a gradient"),
    ],
)
def test_a_task_that_does_not_work_is_said_in_one_line(task: str, words: str, tmp_path: Path) -> None:
    code, table, text = compare(tmp_path / "out", task=task)
    assert (code, table) == (2, "")
    assert words in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_batches_that_cannot_be_begun_again_are_said_and_the_length_is_asked_for(tmp_path: Path) -> None:
    code, _, text = compare(tmp_path / "out", task="users_tasks:once")
    assert code == 2
    assert "users_tasks:once has no batch to be judged on" in text or "ended before step" in text
    code, _, text = compare(tmp_path / "new", small=False)
    assert code == 2
    assert "--steps is missing" in text
    code, _, text = compare(tmp_path / "new", "--method", "none", "--tuned", "none", small=False)
    assert code == 2
    assert "there is nothing to compare" in text


def test_options_are_read_as_python_and_schedules_follow_from_the_method() -> None:
    row = contenders.untuned("adam:betas=(0.8, 0.99),amsgrad=true,schedule=cosine", "warmup").variants[0]
    assert (row.optimizer, row.options, row.schedule) == (
        "torch.optim.Adam", {"betas": (0.8, 0.99), "amsgrad": True}, "cosine",
    )  # fmt: skip
    assert contenders.untuned("prodigy:recipe=auto", "warmup").schedule == "own"
    assert contenders.untuned("dadapt-adam", "linear").schedule == "linear"
    assert contenders.untuned("DAdaptAdam:weight_decay=0.1", "linear").variants[0].optimizer == "DAdaptAdam"
    assert contenders.untuned("ldog:average=8.0", "linear").variants[0].optimizer == "LDoG"
    grid = contenders.tuned("adamw:weight_decay=0,lr=0.1..1x2", "warmup", "5")
    assert grid.label == "adamw:weight_decay=0"
    assert grid.rates == {"adamw:weight_decay=0 at 0.1": 0.1, "adamw:weight_decay=0 at 1": 1.0}


def test_rates_are_a_list_or_a_range_of_equal_ratios() -> None:
    assert parse_rates("3e-3,1e-3,1e-3", "--rates") == [1e-3, 3e-3]
    assert parse_rates("1e-4..1e0x9", "--rates") == [1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2, 3.162e-2, 0.1, 0.3162, 1.0]


def test_paired_differences_are_those_worked_out_by_hand() -> None:
    assert paired([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]) == Paired(0.0, pytest.approx(1 / math.sqrt(3)), 1, 3)
    assert paired([1.0, math.inf], [2.0, 2.0]) is None
