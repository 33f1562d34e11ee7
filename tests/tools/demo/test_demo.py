"""Check that the demo trains in every layout, reports what it cannot do, and resumes after a kill as if uninterrupted."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from dadapt_dist.monitor import read_jsonl
from dadapt_dist.tools.cli import app
from dadapt_dist.tools.demo.curve import curve_of, load_grid
from dadapt_dist.tools.demo.model import SIZES, ByteModel
from dadapt_dist.tools.demo.parallel import LAYOUTS, Rows
from dadapt_dist.tools.demo.settings import SHARDINGS, Settings, parse
from dadapt_dist.tools.demo.text import BATCH, HELD_OUT_BATCHES, Text, load_text
from dadapt_dist.tools.demo.train import train
from dadapt_dist.tools.method_names import method_flags
from tests.helpers.pool import WorkerPool

STEPS = 60


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that a tiny model learns in few steps: d has left d0 well before the end."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 800)
    return path


def command(out: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "dadapt_dist", "demo", "--out", str(out), *map(str, options)]


def start(out: Path, words: Path, *options: object) -> list[str]:
    tiny = ("--size", "tiny", "--steps", STEPS, "--save-every", 10, "--text", words)
    return command(out, *tiny, *options)


def run(line: list[str]) -> str:
    """Run to the end; returns what was printed."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "result.json").read_text()))


def metrics(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_jsonl(out / "metrics.jsonl")]


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


@contextlib.contextmanager
def launched(line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A run in the background, ended with the test."""
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"the run ended early, with {process.returncode}"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def logged(out: Path) -> int:
    """The last step in the log of a run that goes on."""
    path = out / "metrics.jsonl"
    records = read_jsonl(path) if path.exists() else []
    return int(records[-1]["step"]) if records else 0


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(400)
def test_a_run_killed_twice_ends_as_an_uninterrupted_one(tmp_path: Path, words: Path, pool2: WorkerPool) -> None:
    """First a rank dies by SIGKILL, later the launcher; the resumed run has the same d, loss and log to the bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pool2.run(train_here, steps=STEPS, save_every=10, text=str(words), out=str(whole))
    with launched(start(broken, words)) as first:
        until(lambda: logged(broken) >= 15, first)
        os.kill(children(first.pid)[1], signal.SIGKILL)
        assert first.wait(60) == 128 + signal.SIGKILL

    with launched(command(broken, "--resume")) as second:
        until(lambda: logged(broken) >= 35, second)
        ranks = children(second.pid)
        second.kill()
    until(lambda: not any(map(alive, ranks)))
    assert not (broken / "result.json").exists()

    shown = run(command(broken, "--resume"))
    assert re.search("Held-out loss after .*bits per byte", shown)
    assert (broken / "loss_and_d.png").stat().st_size > 0
    assert metrics(broken) == metrics(whole)
    assert [r["step"] for r in metrics(whole)] == [1, *range(5, STEPS + 1, 5)]
    assert result(broken)["d"] == result(whole)["d"] > 1e-6
    assert result(broken)["held_out_bits_per_byte"] == result(whole)["held_out_bits_per_byte"]
    assert sorted(p.name for p in (broken / "checkpoints").iterdir()) == ["step-00000050", "step-00000060"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_ends_every_rank_and_a_run_without_a_checkpoint_starts_again(tmp_path: Path, words: Path) -> None:
    out = tmp_path / "run"
    line = start(out, words, "--save-every", STEPS, "--sharding", "ddp")
    with launched(line) as started:
        until(lambda: logged(out) >= 5, started)
        ranks = children(started.pid)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 128 + signal.SIGINT
    until(lambda: not any(map(alive, ranks)))
    # The same run may go on in another layout.
    run(command(out, "--resume", "--sharding", "none"))
    assert [r["step"] for r in metrics(out)] == [1, *range(5, STEPS + 1, 5)]


# ---------------------------------------------------------------- layouts and methods


def train_here(**options: object) -> None:
    """One run on the ranks of a pool."""
    settings = Settings.of({**options, "size": "tiny", "nproc": dist.get_world_size()})
    dist.barrier()  # as in the script: all look at the folder before one writes
    if dist.get_rank() == 0:
        settings.save()
    dist.barrier()
    train(settings, load_text(settings.text, SIZES["tiny"].context))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, words: Path, pools: Callable[[int], WorkerPool]) -> Path:
    """The folder of a run on one process, which the layouts are compared with."""
    out = tmp_path_factory.mktemp("alone") / "run"
    pools(1).run(train_here, sharding="none", steps=STEPS, text=str(words), out=str(out))
    return out


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "sharding",
    [
        pytest.param(name, marks=[] if name in ("fsdp2", "zero3") else pytest.mark.matrix)
        for name in SHARDINGS
        if name != "none"
    ],
)
def test_every_layout_sees_the_same_batches_and_finds_the_same_d(
    tmp_path: Path, words: Path, alone: Path, pools: Callable[[int], WorkerPool], sharding: str
) -> None:
    pool = pools(SHARDINGS[sharding][0])
    pool.run(train_here, sharding=sharding, steps=STEPS, text=str(words), out=str(tmp_path), timeout=240)
    assert metrics(alone)[-1]["d"] > 1e-6
    for here, there in zip(metrics(tmp_path), metrics(alone), strict=True):
        assert here.pop("held_apart") == 0
        assert here == pytest.approx(there, rel=1e-2)  # float32: trial steps and a rise make more of its roundings


class Breaks(Text):
    """A text that ends on all ranks before its run does."""

    def batch(self, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 45:
            raise EOFError("step 45")
        return super().batch(seed, step)


def break_here(**options: object) -> None:
    settings = Settings.of({**options, "size": "tiny", "nproc": dist.get_world_size()})
    dist.barrier()  # every rank has seen that there is no run yet
    if dist.get_rank() == 0:
        settings.save()
    dist.barrier()
    text = load_text(settings.text, SIZES["tiny"].context)
    with contextlib.suppress(EOFError):
        train(settings, Breaks(text.train, text.held_out, text.fingerprint, text.context))


@pytest.mark.timeout(300)
def test_a_run_under_deepspeed_goes_on_as_if_it_had_not_ended(tmp_path: Path, words: Path, pool2: WorkerPool) -> None:
    """And never in another layout, whose checkpoints differ."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"sharding": "zero2", "steps": STEPS, "text": str(words), "save_every": 20}
    pool2.run(train_here, **options, out=str(whole))
    pool2.run(break_here, **options, out=str(broken))
    assert logged(broken) == 40

    for change, said in ((["--sharding", "fsdp2"], "--sharding is zero2"), (["--nproc", "3"], "--nproc is 2")):
        done = CliRunner().invoke(app, ["demo", "--resume", "--out", str(broken), *change])
        assert done.exit_code == 2
        assert said in done.stderr

    pool2.run(train_here, resume=True, out=str(broken))
    assert metrics(broken) == metrics(whole)
    assert result(broken)["d"] == result(whole)["d"] > 1e-6
    assert result(broken)["held_out_bits_per_byte"] == result(whole)["held_out_bits_per_byte"]


def test_without_deepspeed_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["demo", "--sharding", "zero2", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert done.stderr == "error: --sharding zero2 needs DeepSpeed: pip install 'dadapt-dist[deepspeed]'\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", [*method_flags(), "adamw"])
def test_every_method_trains(tmp_path: Path, words: Path, pool2: WorkerPool, method: str) -> None:
    pool2.run(train_here, method=method, steps=30, text=str(words), out=str(tmp_path), timeout=240)
    losses = [r["loss"] for r in metrics(tmp_path)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_ranks_rows_make_up_the_batch(ranks: int) -> None:
    batch = torch.arange(BATCH)
    parts = torch.cat([Rows(rank, ranks).of(batch) for rank in range(ranks)])
    assert parts.sort().values.equal(batch)


def test_every_sharding_has_a_layout() -> None:
    assert {name for name in SHARDINGS if not name.startswith("zero")} == set(LAYOUTS)


# ---------------------------------------------------------------- model and text


def test_a_byte_does_not_see_the_bytes_after_it() -> None:
    model, tokens = ByteModel(SIZES["tiny"]), torch.randint(256, (2, 32))
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-6)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-3)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    text = load_text(None, 32)
    torch.manual_seed(1)
    first = text.batch(3, 7)
    torch.manual_seed(2)
    again = text.batch(3, 7)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], text.batch(3, 8)[0])
    assert not torch.equal(first[0], text.batch(4, 7)[0])
    assert first[0].shape == (BATCH, 32)
    assert first[0][:, 1:].equal(first[1][:, :-1])


def test_held_out_bytes_are_the_end_and_fill_their_batches(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 100)
    text = load_text(str(tmp_path / "a.txt"), 32)
    assert len(text.train) + len(text.held_out) == 25600
    batches = list(text.held_out_batches())
    assert len(batches) == HELD_OUT_BATCHES
    assert batches[-1][1][-1, -1] == text.held_out[-1]


def test_a_folder_gives_its_texts_without_binaries_in_an_order_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.txt").write_text("a" * 2000)
    (tmp_path / "b.md").write_text("b" * 2000)
    (tmp_path / "c.bin").write_bytes(b"\0" * 9000)
    text = load_text(str(tmp_path), 32)
    assert sorted(set(torch.cat([text.train, text.held_out]).tolist())) == [ord("a"), ord("b")]


def test_settings_survive_the_command_line() -> None:
    settings = Settings(method="adamw", lr=3e-3, seed=4, resume=True, text="a b.txt", nproc=2)
    assert Settings(**(parse(settings.arguments()) | {"nproc": 2})) == settings


def test_the_committed_table_names_what_it_was_measured_with() -> None:
    table = load_grid()
    assert table is not None
    assert {"command", "steps", "size", "seeds", "torch", "python", "text_sha256", "grid"} <= table.keys()
    assert (table["steps"], table["size"]) == (Settings.steps, Settings.size)
    losses = dict(curve_of(table))
    assert {(row["method"], row["seed"]) for row in table["grid"]} == {
        (m, s) for m in ("adamw", "prodigy") for s in table["seeds"]
    }
    best = min(losses, key=lambda lr: losses[lr])
    assert min(losses) < best < max(losses), "the best lr is at an edge: the grid must go further"


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sharding", "hsdp", "--nproc", "3"], ("--sharding hsdp --nproc 3", "at least 4", "try --nproc 4")),
        (["--sharding", "none", "--nproc", "2"], ("--nproc 2", "needs 1")),
        (["--sharding", "tp", "--nproc", "3"], ("--nproc 3", "1, 2 or 4")),
        (["--sharding", "fsdp2", "--nproc", "5"], ("--nproc 5", "divisor")),
        (["--sharding", "ddp", "--nproc", "-1"], ("'--nproc'",)),
        (["--sharding", "fsdp3"], ("fsdp3", "choose one of", "fsdp2+tp")),
        (["--method", "sgd"], ("sgd", "choose one of", "dadapt-sgd")),
        (["--steps", "0"], ("--steps 0", "at least 1")),
        (["--seed", "-1"], ("--seed -1", "at least 0")),
        (["--lr", "0"], ("--lr 0", "positive")),
        (["--text", "missing"], ("missing does not exist", "leave --text out")),
        (["--text", "empty.txt"], ("empty.txt holds 0 bytes", "needs at least")),
        (["--text", "short.txt"], ("short.txt holds 100 bytes", "needs at least")),
        (["--resume"], ("holds no run", "leave --resume out")),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("short.txt").write_text("x" * 100)
    done = CliRunner().invoke(app, ["demo", *options])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in said)
    assert sorted(os.listdir()) == ["empty.txt", "short.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], ("already holds a run", "--resume", "--overwrite")),
        (["--resume", "--steps", "7"], ("--steps is 60", "not 7", "leave --steps out")),
        (["--resume", "--method", "adamw"], ("--method is prodigy", "not adamw")),
        (["--resume", "--overwrite"], ("exclude each other",)),
    ],
)
def test_an_earlier_run_is_neither_overwritten_nor_mixed_with_another(
    tmp_path: Path, options: list[str], said: tuple[str, ...]
) -> None:
    Settings(steps=60, out=str(tmp_path), size="tiny").save()
    before = (tmp_path / "run.json").read_bytes()
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *options])
    assert done.exit_code == 2
    assert all(part in done.stderr for part in said)
    assert (tmp_path / "run.json").read_bytes() == before


def test_overwrite_removes_the_earlier_runs_files_and_no_others(tmp_path: Path) -> None:
    Settings(out=str(tmp_path)).save()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "mine.txt").touch()
    Settings.of({"out": str(tmp_path), "overwrite": True}).save()
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "run.json"]


def test_plot_names_a_missing_log() -> None:
    done = CliRunner().invoke(app, ["plot", "missing.jsonl"])
    assert done.exit_code == 2
    assert "missing.jsonl" in done.stderr


def test_plot_writes_beside_the_log(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step": 1, "loss": 2.0, "d": 1e-6}\n')
    done = CliRunner().invoke(app, ["plot", str(tmp_path / "run.jsonl")])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "run.png").stat().st_size > 0
