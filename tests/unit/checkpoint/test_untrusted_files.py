"""Check the handling of hostile or broken files: pickles from strangers, pipes, devices, bombs, garbage."""

import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dadapt_dist.integrations.deepspeed import universal_load, zero_files
from dadapt_dist.monitor import read_jsonl
from dadapt_dist.tools.cli import app
from dadapt_dist.tools.demo.settings import Settings

STRANGER = 54321


# ---------------------------------------------------------------- pickles


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def checkpoint(folder: Path, content: Any) -> Path:
    (folder / "tag").mkdir(parents=True)
    (folder / "latest").write_text("tag")
    path = folder / "tag" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save(content, path)
    return path


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "owner": (lambda path: os.chown(path, STRANGER, -1), "belongs to the unknown user 54321"),
    "all": (lambda path: path.chmod(0o646), "is writable by all"),
    "group": (lambda path: path.chmod(0o664), "is writable by its group"),
    "folder": (lambda path: path.parent.chmod(0o777), "tag is writable by all"),
    "folder's owner": (lambda path: os.chown(path.parent, STRANGER, -1), "tag belongs to the unknown user 54321"),
    "another file": (lambda path: (path.with_name("x.pt").touch(), path.with_name("x.pt").chmod(0o666)), "x.pt is"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and has no group of its own")
@pytest.mark.parametrize("how", STRANGERS)
def test_what_strangers_may_have_written_is_not_unpickled_unless_trusted(how: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "in", {"x": Evil(tmp_path / "ran")})
    change, said = STRANGERS[how]
    change(path)
    with pytest.raises(ValueError, match=f"{said}.*, and reading it would run code .* trust=True"):
        universal_load.convert(tmp_path / "in", tmp_path / "out")
    line = ["universal", str(tmp_path / "in"), str(tmp_path / "out")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert "--trust" in done.output
    assert not (tmp_path / "ran").exists()
    done = CliRunner().invoke(app, [*line, "--trust"])
    assert "is no file of ZeRO optimizer states" in done.output  # it was read
    assert (tmp_path / "ran").exists()


def test_reading_whole_objects_is_said_before_with_the_files_name(
    tmp_path: Path, library_log: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(tmp_path / "in", {"x": Evil(tmp_path / "ran")})
    zero_files.read_file(path)
    (record,) = library_log.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert "runs code that is in it" in record.getMessage()
    assert (tmp_path / "ran").exists()


def test_what_deepspeed_itself_saves_is_read_without_running_anything(
    tmp_path: Path, library_log: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    saved = {
        "stage": ZeroStageEnum(2),
        "scaler": [LossScaler(1.0), DynamicLossScaler(2.0, 2.0, 1, 1.0, 1)],
        "where": fragment_address(3, 4),
        "x": torch.ones(3),
    }
    read = zero_files.read_file(checkpoint(tmp_path, saved))
    assert read["stage"] is saved["stage"]
    assert read["where"] == saved["where"]
    assert [type(one) for one in read["scaler"]] == [type(one) for one in saved["scaler"]]
    assert library_log.records == []


# ---------------------------------------------------------------- files that hang, flood or surprise


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def bomb(path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)]
    path.write_text("\n".join([*lines, "learning_rate: *k", "optim: *k"]))


def merges(path: Path) -> None:
    lines = ["m0: &m0 {k: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    path.write_text("\n".join([*lines, "output_dir: x"]))


def names_itself(path: Path) -> None:
    path.write_text(f"distributed_type: DEEPSPEED\ndeepspeed_config: {{deepspeed_config_file: {path}}}")


ODD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pipe": ("x.json", pipe, "is no regular file"),
    "socket": ("x.json", listening, "is no regular file"),
    "folder": ("x.json", Path.mkdir, "is a folder"),
    "device": ("x.json", lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
    "link to itself": ("x.json", lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
    "link to nothing": ("x.json", lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
    "large": ("x.json", lambda path: path.write_bytes(b" " * (1 << 20)), "is larger than the 256 KiB"),
    "large yaml": ("x.yaml", lambda path: path.write_bytes(b"a: b\n" * (1 << 15)), "is larger than the 64 KiB"),
    "endless": ("x.yaml", lambda path: (path.touch(), os.truncate(path, 1 << 40)), "is larger than the 64 KiB"),
    "latin": ("x.json", lambda path: path.write_bytes(b'{"output_dir": "\xe9"}'), "byte 16 is 0xe9"),
    "deep json": ("x.json", lambda path: path.write_text("[" * 100_000), "is nested too deeply"),
    "deep yaml": ("x.yaml", lambda path: path.write_text("[" * 50_000), "is nested too deeply"),
    "bomb": ("x.yaml", bomb, "its aliases make more than 100000 values"),
    "merges": ("x.yaml", merges, "its aliases make more than 100000 values"),
    "itself": ("x.yaml", lambda path: path.write_text("output_dir: &x [*x]"), "a value holds itself"),
    "tag": ("x.yaml", lambda path: path.write_text("output_dir: !!bool maybe"), "is not well formed"),
    "code": ("x.yaml", lambda path: path.write_text("a: !!python/object/apply:os.getpid []"), "is not well formed"),
    "digits": ("x.json", lambda path: path.write_text('{"learning_rate": ' + "1" * 5000 + "}"), "is not well formed"),
    "names a name that is none": (
        "x.json", lambda path: path.write_text('{"output_dir": "x", "deepspeed": "a\\u0000b"}'), "cannot be the name",
    ),
    "names itself": ("x.yaml", names_itself, "names itself"),
}  # fmt: skip


def doctor(*paths: Path) -> Result:
    return CliRunner().invoke(app, ["doctor", "--no-reduce", *map(str, paths)], env={"COLUMNS": "200"})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ODD)
def test_doctor_says_in_one_line_why_it_cannot_read_a_file(name: str, tmp_path: Path) -> None:
    file, make, said = ODD[name]
    make(tmp_path / file)
    done = doctor(tmp_path / file)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert said in done.stderr
    assert "x." in done.stderr
    assert done.stdout.splitlines()[-1].endswith("1 file could not be checked")


def test_one_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"output_dir": "x", "learning_rate": 0.1}')
    done = doctor(tmp_path / "gone.json", tmp_path / "good.json", tmp_path)
    assert done.exit_code == 2
    assert "better: learning_rate: unless" in done.output
    assert done.output.count("error: ") == 2


def test_no_value_breaks_doctor_or_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    odd = ["\ud800\x1b[31m\n", int("9" * 400), [["x"] * 999], {"a": {}}, 1e999, None, True]
    for one in odd:
        sections = {
            "optimizer": {"type": "Prodigy", "params": {"d0": one, "lr": one, "betas": one}},
            "scheduler": {"type": one, "params": {"warmup_num_steps": one}},
            "zero_optimization": {"stage": one, "offload_optimizer": {"device": one, "ratio": one}},
        }
        path.write_text(json.dumps({"train_batch_size": 8, "gradient_clipping": one, **sections}))
        done = doctor(path)
        assert done.exit_code == 1, done.output
        assert "\x1b" not in done.output
        assert max(map(len, done.output.splitlines())) < 700


@pytest.mark.timeout(30)
def test_a_log_or_a_run_that_is_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    for make in (pipe, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        log = tmp_path / f"log-{make.__name__}"
        make(log)
        with pytest.raises(ValueError, match=r"is no regular file|is a folder"):
            read_jsonl(log)
        done = CliRunner().invoke(app, ["plot", str(log)])
        assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    for text in ("[" * 100_000, "[1]", "{}", '{"steps": "x"}', "\0"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json"):
            Settings.of({"resume": True, "out": str(tmp_path)})
    tmp_path.chmod(0o777)
    with pytest.raises(ValueError, match="is writable by all, and reading it would run code"):
        Settings.of({"resume": True, "out": str(tmp_path)})
