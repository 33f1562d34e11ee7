"""Settings of a demo run, all checked before anything is written."""

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...files.bounded_read import read_json_object
from ...files.ownership import check_pickles
from ..method_names import method_flags
from .model import SIZES
from .text import BATCH

# sharding -> (ranks unless told, which numbers of ranks are possible)
SHARDINGS: dict[str, tuple[int, str]] = {
    "none": (1, "1"),
    "ddp": (2, f"a divisor of the batch of {BATCH}"),
    "fsdp1": (2, f"a divisor of the batch of {BATCH}"),
    "fsdp2": (2, f"a divisor of the batch of {BATCH}"),
    "hsdp": (4, f"an even divisor of the batch of {BATCH}, at least 4 (pairs of shards, replicated)"),
    "tp": (2, "a divisor of the 4 attention heads: 1, 2 or 4"),
    "zero1": (2, f"a divisor of the batch of {BATCH}"),
    "zero2": (2, f"a divisor of the batch of {BATCH}"),
    "zero3": (2, f"a divisor of the batch of {BATCH}"),
    "fsdp2+tp": (4, f"twice a divisor of the batch of {BATCH}, at least 4 (tensor-parallel pairs, sharded)"),
}
_MAY_CHANGE = {
    "sharding",
    "nproc",
    "out",
    "resume",
    "overwrite",
    "save_every",
}  # on --resume; the rest is the run's own
_FILES = ("run.json", "metrics.jsonl", "result.json", "loss_and_d.png", "checkpoints")
COMPARISON = "comparison.json"  # in a folder of runs under several layouts
DTYPES = ("float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run. nproc 0: the sharding's own; lr None: 1.0, and 1e-3 for AdamW; text None: the standard library.

    The last four are for runs that are compared digit by digit. dtype: of the weights; backwards: the rows of each batch in
    reverse order; count_ranks: log on how many ranks d has the same bits.
    """

    method: str = "prodigy"
    sharding: str = "fsdp2"
    nproc: int = 0
    steps: int = 600
    size: str = "small"
    seed: int = 0
    lr: float | None = None
    text: str | None = None
    out: str = "demo-out"
    save_every: int = 100
    resume: bool = False
    overwrite: bool = False
    dtype: str = "float32"
    log_every: int = 5
    backwards: bool = False
    count_ranks: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Settings":
        """Settings from what was given; with resume, the rest is what the run was started with. Raises ValueError."""
        if given.get("text") is not None:
            given = given | {"text": str(Path(given["text"]).resolve())}
        settings = cls(**given)
        if settings.resume:
            stored = settings._stored()
            for name in given.keys() & stored.keys() - _MAY_CHANGE:
                if given[name] != stored[name]:
                    flag = f"--{name.replace('_', '-')}"
                    raise ValueError(f"{flag} is {stored[name]} in {settings.out}, not {given[name]}: leave {flag} out")
            _check_change(stored, given)
            if "sharding" in given and given["sharding"] != stored["sharding"]:
                stored["nproc"] = 0
            settings = cls(**(stored | given))
        settings._check()
        return cls(**(asdict(settings) | {"nproc": settings.nproc or SHARDINGS[settings.sharding][0]}))

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def zero_stage(self) -> int:
        """1, 2 or 3 under DeepSpeed, else 0."""
        return int(self.sharding.removeprefix("zero")) if self.sharding.startswith("zero") else 0

    def arguments(self) -> list[str]:
        """The command line that `parse` reads back."""
        line = []
        for name, value in asdict(self).items():
            if value is not None and value is not False and name != "nproc":
                line += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return line

    def save(self) -> None:
        """Start the run's folder: an earlier run's files go (overwrite), run.json comes. Not on resume."""
        if self.resume:
            return
        for name in _FILES:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "run.json.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(part, self.folder / "run.json")

    def _stored(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        if not path.is_file():
            raise ValueError(f"--resume: {self.out} holds no run; name its folder with --out, or leave --resume out")
        check_pickles(self.folder, cure="copy the run into a folder of your own")
        stored, usual = read_json_object(path), asdict(self)
        odd = sorted(stored.keys() ^ usual.keys())
        odd += [name for name in stored.keys() & usual.keys() if not _is_like(name, stored[name])]
        if odd:
            raise ValueError(
                f"--resume: {path} is not what a run wrote: {', '.join(odd[:5])}; start it anew with --overwrite"
            )
        return stored | {"resume": True, "overwrite": False, "out": self.out}

    def _check(self) -> None:
        for name, known in (
            ("method", (*method_flags(), "adamw")),
            ("sharding", tuple(SHARDINGS)),
            ("size", tuple(SIZES)),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} {getattr(self, name)} is unknown: choose one of {', '.join(known)}")
        for name, least, below in (
            ("steps", 1, 10**9),
            ("save_every", 1, 10**9),
            ("log_every", 1, 10**9),
            ("seed", 0, 2**31),
        ):
            if not least <= getattr(self, name) < below:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)} must be at least {least} and below {below}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(f"--lr {self.lr} must be a positive number; leave it out for the method's own")
        if not _fits(self.sharding, self.nproc or SHARDINGS[self.sharding][0]):
            number, possible = SHARDINGS[self.sharding]
            raise ValueError(f"--sharding {self.sharding} --nproc {self.nproc}: needs {possible}; try --nproc {number}")
        if self.zero_stage and importlib.util.find_spec("deepspeed") is None:
            raise ValueError(f"--sharding {self.sharding} needs DeepSpeed: pip install 'dadapt-dist[deepspeed]'")
        if self.zero_stage and self.dtype != "float32":
            raise ValueError(f"--dtype {self.dtype}: DeepSpeed keeps its weights in float32; leave --dtype out")
        self._check_folder()

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out {self.out} is a file: name a folder")
        if (self.folder / COMPARISON).exists():
            raise ValueError(f"--out {self.out} holds a comparison of layouts: add --compare, or name another folder")
        found = [name for name in _FILES if (self.folder / name).exists()]
        if found and not self.resume and not self.overwrite:
            raise ValueError(
                f"--out {self.out} already holds a run ({', '.join(found)}): continue it with --resume, "
                "replace it with --overwrite, or name another folder"
            )
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other: leave one out")


def parse(line: Sequence[str] | None = None) -> dict[str, Any]:
    """The options that a command line gives, for `Settings.of`."""
    parser = argparse.ArgumentParser("dadapt_dist.tools.demo.train", argument_default=argparse.SUPPRESS)
    kinds: dict[str, type] = {"steps": int, "seed": int, "save_every": int, "log_every": int, "lr": float}
    for name in (field.name for field in fields(Settings) if field.name != "nproc"):  # nproc is the launcher's business
        flag = f"--{name.replace('_', '-')}"
        if isinstance(getattr(Settings, name), bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=kinds.get(name, str))
    return vars(parser.parse_args(line))


def _check_change(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """A run under DeepSpeed goes on as it was, and no other becomes one: it reads its own checkpoints only, rank by rank."""
    for name in ("sharding", "nproc"):
        before, now = stored[name], given.get(name) or stored[name]
        if before != now and (str(stored["sharding"]) + str(given.get("sharding"))).count("zero"):
            flag = f"--{name}"
            raise ValueError(
                f"{flag} is {before} in {stored['out']}, and DeepSpeed cannot go on with {now}: leave {flag} out"
            )


def _is_like(name: str, value: Any) -> bool:
    """Return whether a value has the type of this setting."""
    kinds = {"lr": (int, float, type(None)), "text": (str, type(None))}.get(name, (type(getattr(Settings, name)),))
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _fits(sharding: str, ranks: int) -> bool:
    if ranks < 1:
        return False
    if sharding == "none":
        return ranks == 1
    if sharding == "tp":
        return ranks in (1, 2, 4)
    if sharding == "hsdp":
        return ranks >= 4 and ranks % 2 == 0 and BATCH % ranks == 0
    if sharding == "fsdp2+tp":
        return ranks >= 4 and ranks % 2 == 0 and BATCH % (ranks // 2) == 0
    return BATCH % ranks == 0
