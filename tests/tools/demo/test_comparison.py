"""Check that the demo's comparison of layouts trains the same under each, says what it found, and refuses what cannot work."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from rich.console import Console
from typer.testing import CliRunner

from dadapt_dist.monitor import read_jsonl
from dadapt_dist.tools.cli import app
from dadapt_dist.tools.demo import curve, picture
from dadapt_dist.tools.demo.comparison import command, figure, table
from dadapt_dist.tools.demo.comparison.logs import Released, read_groups, shared_digits, telling_places
from dadapt_dist.tools.demo.comparison.plan import Comparison
from dadapt_dist.tools.demo.model import SIZES
from dadapt_dist.tools.demo.settings import SHARDINGS, Settings
from dadapt_dist.tools.demo.text import load_text
from dadapt_dist.tools.demo.train import train
from dadapt_dist.tools.demo.wording import LAYOUTS, processes
from tests.helpers.pool import WorkerPool

STEPS = 24
UNIT = re.compile(r"\((bits per byte|optimizer steps|units of the weights)\)|\|d/d\$_1\$ - 1\|")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 800)
    return path


def train_here(**options: Any) -> None:
    """A run of the plan, on the ranks of a pool."""
    settings = Settings(**options)
    if dist.get_rank() == 0:
        settings.save()
    dist.barrier()
    train(settings, load_text(settings.text, SIZES[settings.size].context, backwards=settings.backwards))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, words: Path, pools: Callable[[int], WorkerPool]) -> Path:
    """The folder of a short comparison on real ranks."""
    out = tmp_path_factory.mktemp("comparison") / "runs"
    plan = Comparison.of("fsdp2,zero3", {"steps": STEPS, "text": str(words), "out": str(out)})
    plan.save()
    for run in plan.runs():
        pools(run.settings.nproc).run(train_here, **vars(run.settings))
    return out


def plan_of(folder: Path) -> Comparison:
    return Comparison.of("fsdp2,zero3", {"out": str(folder), "resume": True})


def shown(*tables: Any) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        for one in tables:
            console.print(one)
    return captured.get()


def test_every_layout_finds_the_d_of_one_process_and_every_rank_holds_it(compared: Path) -> None:
    double, single = read_groups(plan_of(compared))
    assert [trace.name for trace in double.layouts] == ["fsdp2"]  # DeepSpeed keeps float32 weights
    assert [trace.name for trace in single.layouts] == ["fsdp2", "zero3"]
    assert double.base.d[-1] > 1e-4  # d has left d0
    assert double.largest < 1e-12
    assert single.largest < 1e-3
    assert table.apart([double, single]) == []
    assert [trace.same_on for trace in double.layouts] == [(2,) * STEPS]
    assert max(double.reordered.deviations(double.base)) < 1e-12


def test_another_seed_in_one_layout_is_seen(tmp_path: Path, compared: Path, words: Path, pool2: WorkerPool) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(compared, folder)
    (run,) = (run for run in plan_of(folder).runs() if (run.dtype, run.name) == ("float64", "fsdp2"))
    pool2.run(train_here, **{**vars(run.settings), "seed": 1})
    double, _ = read_groups(plan_of(folder))
    assert double.largest > 1e-6


def test_the_tables_and_sentences_give_what_the_logs_hold(compared: Path) -> None:
    groups = read_groups(plan_of(compared))
    text = shown(*map(table.group_table, groups), table.steps_table(groups))
    last = {
        name: read_jsonl(compared / "float64" / name / "metrics.jsonl")[-1]["d"]
        for name in ("none", "fsdp2", "reversed")
    }
    for name, d in last.items():
        assert re.search(rf"^ *{name} +[12] +{re.escape(f'{d:.16e}')} ", text, re.MULTILINE)
    assert text.count(f"{groups[0].largest:.1e}") >= 1
    assert text.count("2 of 2") == 3
    assert all(len(line) <= 80 for line in text.splitlines())
    words = " ".join(table.sentences(groups, Released("1.1.2", (0.1, 0.25), ((0.1, 0.5), (0.1, 0.75)))))
    assert f"above {groups[0].largest:.1e}" in words
    assert "ZeRO-3: in float32 only" in words
    assert "all ranks held the same d, bit for bit, at each of 24 steps" in words
    assert "d is 0.25 on one process; under FSDP2 it is 0.5 on rank 0 and 0.75 on rank 1" in words


def test_ranks_that_hold_another_d_are_named(tmp_path: Path, compared: Path) -> None:
    folder = tmp_path / "runs"
    shutil.copytree(compared, folder)
    log = folder / "float32" / "zero3" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"ranks_with_same_d": 2', '"ranks_with_same_d": 1', 1))
    groups = read_groups(plan_of(folder))
    assert table.apart(groups) == ["zero3 (float32)"]
    assert any(
        "NOT hold the same d at all of 24 steps: zero3 (float32)" in line for line in table.sentences(groups, None)
    )


def test_a_finished_comparison_is_shown_again_without_a_run(
    tmp_path: Path, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose last layout is missing does that one alone."""
    folder = tmp_path / "runs"
    shutil.copytree(compared, folder)
    started: list[str] = []
    monkeypatch.setattr(command, "launch", lambda module, arguments, nproc: started.append(arguments) or 130)
    monkeypatch.setattr(Comparison, "compares_released", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = ["demo", "--compare", "fsdp2,zero3", "--resume", "--out", str(folder)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert started == []
    assert (folder / "comparison.png").stat().st_size > 0

    (folder / "float32" / "zero3" / "result.json").unlink()
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 130
    assert f"continue with: dadapt-dist demo --compare fsdp2,zero3 --resume --out {folder}" in done.output
    (arguments,) = started
    assert arguments[arguments.index("--sharding") + 1] == "zero3"
    assert "--resume" in arguments


def test_every_axis_of_the_pictures_has_its_unit(tmp_path: Path, compared: Path) -> None:
    plan = plan_of(compared)
    drawn = figure.figure_of(plan, read_groups(plan), None)
    settings = Settings(out=str(compared / "float32" / "fsdp2"), nproc=2)
    stored = curve.stored_for(settings)
    assert stored is not None
    of_run = picture.figure_of(settings, 2.5, stored)
    assert of_run.get_suptitle() == "prodigy, FSDP2 on 2 processes: 600 steps"
    for axis in (*drawn.axes, *of_run.axes):
        if axis.get_ylabel():
            assert UNIT.search(axis.get_ylabel()), axis.get_ylabel()
    assert all(UNIT.search(axis.get_xlabel()) for axis in of_run.axes), [axis.get_xlabel() for axis in of_run.axes]
    assert [axis.get_ylabel() for axis in of_run.axes[:2]] == [
        "held-out loss (bits per byte)",
        "training loss (bits per byte)",
    ]
    assert [axis.get_title() for axis in drawn.axes[:2]] == ["float64", "float32"]


def test_the_log_is_in_bits_per_byte(compared: Path) -> None:
    """At its start a model is as good as a guess among 256 bytes: 8 bits."""
    assert read_jsonl(compared / "float64" / "none" / "metrics.jsonl")[0]["loss"] == pytest.approx(8, abs=0.1)


def test_the_demo_says_which_figures_are_stored_and_shows_the_whole_curve() -> None:
    settings = Settings(nproc=2)
    stored = curve.stored_for(settings)
    assert stored is not None
    said = curve.sentence(stored, settings, 2.4567)
    for part in (
        "stored",
        "mean of 3 seeds",
        "on one process",
        stored.table["torch"],
        "only the 2.457 of prodigy (seed 0)",
    ):
        assert part in said
    lines = shown(curve.table_of(stored, settings, 2.4567, 0.0044)).splitlines()
    rows = [line for line in lines if "adamw" in line]
    assert [f"{lr:g}" for lr, _ in stored.curve] == [row.split()[2] for row in rows]
    ours = next(line for line in lines if "this run" in line).index(curve.AT_OURS)
    assert all(row[ours] in (curve.AT_OURS, curve.AT_ADAMW) for row in rows)
    assert sum("best" in row for row in rows) == 1
    assert curve.stored_for(Settings(steps=599)) is None


def test_digits_are_those_that_are_equal() -> None:
    assert shared_digits([0.5, 0.5]) == ("0.5", 17)
    assert shared_digits([1.2345e-3, 1.2349e-3]) == ("1.234e-03", 4)
    assert shared_digits([1.0, 2.0]) == ("", 0)
    assert shared_digits([9.99, 10.0]) == ("", 0)
    assert telling_places([1.0] * 5) == [0, 4]
    assert telling_places([1.0, 2.0, 2.0, 3.0, 3.0]) == [0, 1, 3, 4]


def test_every_layout_has_a_name_and_a_style() -> None:
    assert set(SHARDINGS) == set(LAYOUTS) == {"none", *figure.STYLES}


def test_one_process_is_not_several() -> None:
    assert [processes(1), processes(2)] == ["1 process", "2 processes"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["none,fsdp3"], ("fsdp3 is unknown", "choose from none, ddp")),
        (["none,,tp"], ("an empty name is unknown",)),
        (["none"], ("needs a layout besides none",)),
        (["tp", "--sharding", "fsdp2"], ("--sharding has no place beside --compare", "leave it out")),
        (["tp", "--nproc", "2"], ("--nproc has no place",)),
        (["tp", "--method", "adamw"], ("adamw has none", "such as prodigy")),
        (["tp", "--method", "kt"], ("kt has none",)),
        (["tp", "--steps", "0"], ("--steps 0", "at least 1")),
        (["tp", "--text", "missing"], ("missing does not exist",)),
        (["tp", "--resume"], ("holds no comparison", "leave --resume out")),
        (["tp", "--resume", "--overwrite"], ("exclude each other",)),
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", "--compare", *options])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in said), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_deepspeed_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["demo", "--compare", "none,zero3", "--out", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert done.stderr == "error: --compare zero3 needs DeepSpeed: pip install 'dadapt-dist[deepspeed]'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_and_a_run_do_not_share_a_folder(tmp_path: Path) -> None:
    run, comparison = tmp_path / "run", tmp_path / "comparison"
    Settings(out=str(run)).save()
    comparison.mkdir()
    (comparison / "comparison.json").write_text(json.dumps({"steps": 150}))
    for line, said in (
        (["--compare", "tp", "--out", str(run), "--overwrite"], "holds a run, no comparison"),
        (["--compare", "tp", "--out", str(comparison)], "already holds a comparison"),
        (["--compare", "tp", "--out", str(comparison), "--resume"], "is not what a comparison wrote"),
        (["--out", str(comparison), "--overwrite"], "holds a comparison of layouts"),
    ):
        done = CliRunner().invoke(app, ["demo", *line])
        assert done.exit_code == 2
        assert said in done.stderr
    assert [path.name for path in comparison.iterdir()] == ["comparison.json"]
