"""What a comparison of layouts runs, all checked before anything is written."""

import importlib.util
import json
import math
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ....files.bounded_read import read_json_object
from ....files.ownership import check_pickles
from ....files.whole_write import write_whole
from ..common import class_of
from ..model import SIZES
from ..settings import COMPARISON, DTYPES, SHARDINGS, Settings
from ..text import load_text
from ..wording import placed

BASE, REVERSED, RELEASED = "none", "reversed", "prodigyopt"
PICTURE = "comparison.png"
_FILES = (COMPARISON, PICTURE, *DTYPES, RELEASED)
_FIXED = ("method", "steps", "size", "seed", "lr", "text")  # on --resume


@dataclass(frozen=True)
class Run:
    """One training. name: its layout, or "reversed" for the one on one process with the rows of each batch in reverse order."""

    dtype: str
    name: str
    settings: Settings

    @property
    def is_done(self) -> bool:
        return (self.settings.folder / "result.json").is_file()

    @property
    def label(self) -> str:
        if self.name == REVERSED:
            return "one process, the rows of each batch in reverse order"
        return placed(self.name, self.settings.nproc)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The layouts to compare, one process first, and the training. size: a model so small that many runs take little time."""

    layouts: tuple[str, ...]
    method: str = "prodigy"
    steps: int = 150
    size: str = "tiny"
    seed: int = 0
    lr: float | None = None
    text: str | None = None
    out: str = "demo-compare"
    resume: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, names: str, given: dict[str, Any]) -> "Comparison":
        """Check the layouts' names, separated by commas, and the other options. Raises ValueError."""
        layouts = _layouts_of(names)
        odd = sorted(given.keys() - {field.name for field in fields(cls)})
        if odd:
            flag = f"--{odd[0].replace('_', '-')}"
            raise ValueError(f"{flag} has no place beside --compare, which names the layouts: leave it out")
        if given.get("text") is not None:
            given = given | {"text": str(Path(given["text"]).resolve())}
        plan = cls(layouts=layouts, **given)
        plan._check_folder()
        if plan.resume:
            stored = plan._stored()
            for name in _FIXED:
                if name in given and given[name] != stored[name]:
                    raise ValueError(f"--{name} is {stored[name]} in {plan.out}, not {given[name]}: leave --{name} out")
            plan = cls(**{**asdict(plan), **stored})
        plan._check_training()
        return plan

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def compares_released(self) -> bool:
        """Whether the released package runs beside, to see what its d is under FSDP2: where it is installed."""
        wanted = self.method == "prodigy" and "fsdp2" in self.layouts
        return wanted and importlib.util.find_spec(RELEASED) is not None

    def runs(self) -> list[Run]:
        """All runs in their order: float64 where the layout permits it, then float32; one process before all others."""
        found = []
        for dtype in reversed(DTYPES):
            layouts = [name for name in self.layouts if dtype == "float32" or not name.startswith("zero")]
            if len(layouts) > 1:
                found += [self._run(dtype, name) for name in (BASE, REVERSED, *layouts[1:])]
        return found

    def save(self) -> None:
        """Start the folder: an earlier comparison's files go (overwrite), comparison.json comes."""
        if not self.resume:
            for name in _FILES:
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in asdict(self).items() if name not in ("out", "resume", "overwrite")}
        write_whole(self.folder / COMPARISON, json.dumps(settings, indent=2) + "\n")

    def _run(self, dtype: str, name: str) -> Run:
        out = self.folder / dtype / name
        training = {key: getattr(self, key) for key in _FIXED if getattr(self, key) is not None}
        of_run = {"sharding": BASE if name == REVERSED else name, "dtype": dtype, "backwards": name == REVERSED}
        begun = self.resume and (out / "run.json").is_file() and not (out / "result.json").is_file()
        again = {"resume": True} if begun else {"overwrite": True}
        options = {**training, **of_run, **again, "out": str(out), "log_every": 1, "count_ranks": True}
        return Run(dtype, name, Settings.of(options))

    def _stored(self) -> dict[str, Any]:
        path = self.folder / COMPARISON
        if not path.is_file():
            raise ValueError(
                f"--resume: {self.out} holds no comparison; name its folder with --out, or leave --resume out"
            )
        check_pickles(self.folder, cure="copy the comparison into a folder of your own")
        stored = read_json_object(path)
        if missing := [name for name in _FIXED if name not in stored]:
            raise ValueError(
                f"--resume: {path} is not what a comparison wrote: {', '.join(missing)}; start it anew with --overwrite"
            )
        return {name: stored[name] for name in _FIXED}

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out {self.out} is a file: name a folder")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other: leave one out")
        if (self.folder / "run.json").exists():
            raise ValueError(
                f"--out {self.out} holds a run, no comparison: leave --compare out, or name another folder"
            )
        if (self.folder / COMPARISON).exists() and not self.resume and not self.overwrite:
            raise ValueError(
                f"--out {self.out} already holds a comparison: continue it with --resume, replace it with --overwrite, "
                "or name another folder"
            )

    def _check_training(self) -> None:
        self.runs()  # checks each run's settings
        load_text(self.text, SIZES[self.size].context)
        if self.method == "adamw" or math.isnan(_probe(self.method).d):
            raise ValueError(
                f"--compare compares d, and {self.method} has none: choose another --method, such as prodigy"
            )


def _probe(method: str) -> Any:
    """An optimizer of one number, to see what it has."""
    return class_of(method)([torch.nn.Parameter(torch.ones(1))])


def _layouts_of(names: str) -> tuple[str, ...]:
    """The layouts named, each once and one process first. Raises ValueError for what is unknown or cannot run here."""
    found = [name.strip() for name in names.split(",")]
    known = ", ".join(SHARDINGS)
    for name in found:
        if name not in SHARDINGS:
            raise ValueError(f"--compare {name or 'with an empty name'} is unknown: choose from {known}")
    layouts = tuple(dict.fromkeys([BASE, *found]))
    if len(layouts) < 2:
        raise ValueError(f"--compare {names} needs a layout besides none: choose from {known}")
    zero = [name for name in layouts if name.startswith("zero")]
    if zero and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"--compare {zero[0]} needs DeepSpeed: pip install 'dadapt-dist[deepspeed]'")
    return layouts
