"""Read the checkpoint files that DeepSpeed saved, and verify that they are ours."""

import contextlib
import importlib
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...engine.estimate_state import KEPT_HERE
from ...engine.state.validation import check_format, check_order, numbers_of
from ...files.bounded_read import read_text
from ...methods import METHODS
from ...options.checks import listed

logger = logging.getLogger(__name__)
DEEPSPEEDS_OWN = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
Dict = dict[str, Any]
OPTIM = "optimizer_state_dict"


def tag_folder(folder: Path, tag: str | None, latest: str = "latest") -> Path:
    """The folder of a tag: the one given, or the one that the file `latest` names, or the folder itself."""
    pointer = folder / latest
    if tag is None and pointer.is_file():
        tag = read_text(pointer, 4096).strip()
    found = folder if tag is None else folder / tag
    if not found.is_dir():
        raise ValueError(f"there is no folder {found}: give the folder of a checkpoint, or the one in which tags lie.")
    return found


@dataclass(frozen=True)
class Saved:
    """A checkpoint that DeepSpeed saved: folder, ZeRO stage, files of optimizer states, first group, names of the buffers."""

    folder: Path
    stage: int
    files: list[Path]
    group: Dict
    buffers: list[str]

    @property
    def anchors(self) -> list[str]:
        """The buffers that hold weights of the start (x0)."""
        specs = METHODS[self.group["method"]]().buffers(self.group)
        return [name for name in self.buffers if name in specs and specs[name].init == "param"]


def optimizer_of(content: Dict) -> tuple[int, Dict]:
    """(stage, the optimizer's state dict) of a file of optimizer states."""
    zero = content[OPTIM]
    stage = int(zero.get("zero_stage", 1))
    return stage, zero[OPTIM] if stage == 3 else zero["base_optimizer_state"]


def read_file(path: Path) -> Any:
    """A file of DeepSpeed's; ValueError when it is cut off, or no file of torch.save.

    Tensors, plain containers and the four classes that DeepSpeed itself saves are read without running anything. A file
    with objects of other classes, of a client_state for instance, is unpickled whole, which runs code that is in it: that is
    logged with the file's name. `trust.check_pickles` comes first.
    """
    try:
        with torch.serialization.safe_globals(_deepspeeds_own()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is cut off, or no file of torch.save: {error}") from error
    what = found[1] if found else "classes of its own"
    logger.warning("%s holds %s: it is unpickled whole, which runs code that is in it", path, what)
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is cut off, or no file of torch.save: {error}") from error


def _deepspeeds_own() -> list[Any]:
    """The classes that DeepSpeed saves beside tensors, as far as they are here."""
    found = []
    for module, name in DEEPSPEEDS_OWN:
        with contextlib.suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name, None))
    return [one for one in found if one is not None]


def read(folder: Path) -> Saved:
    """Look at every file of optimizer states; ValueError for what cannot be converted."""
    files = sorted(folder.glob("*_optim_states.pt"))
    if not files:
        raise ValueError(f"{folder} {_what_else(folder)}")
    buffers: list[str] = []
    for path in files:
        content = read_file(path)
        if OPTIM not in content or "ds_version" not in content:
            raise ValueError(f"{path} is no file of ZeRO optimizer states: the folder is not a DeepSpeed checkpoint.")
        stage, packed = optimizer_of(content)
        if not isinstance(packed, dict):
            raise ValueError(
                f"{path} was saved with elastic_checkpoint, which drops d and all scalars. Save without it."
            )
        buffers = _buffers(path, packed, buffers)
    return Saved(folder, stage, files, packed["param_groups"][0], buffers)


def _what_else(folder: Path) -> str:
    if (folder / "zero").is_dir():
        return "is a universal checkpoint already: load it, at any number of ranks."
    if list(folder.glob("mp_rank_*_model_states.pt")):
        return (
            "holds no ZeRO optimizer states. A checkpoint of stage 0 needs no conversion: engine.load_checkpoint takes it at "
            "any number of ranks."
        )
    return "is no DeepSpeed checkpoint: it holds no *_optim_states.pt. Give the folder that save_checkpoint wrote, or a tag's."


def _buffers(path: Path, packed: Dict, before: list[str]) -> list[str]:
    """The names of the buffers, checked against the method's; those of the files before it must be the same."""
    groups = packed["param_groups"]
    method = METHODS.get(groups[0].get("method"))
    if method is None:
        keys = listed(key for key in groups[0] if key != "params")
        raise ValueError(
            f"{path} is of another optimizer: its groups have {keys}, and no method of {listed(METHODS)}. DeepSpeed's own "
            "ds_to_universal converts Adam's."
        )
    options = {**method.options.defaults(), **groups[0]}  # a checkpoint leaves out what is newer than it, or not used
    initial = method().scalars(options)
    scalars = {*initial, *KEPT_HERE, "steps"} - set(method.later_scalars)
    missing = {key for group in groups for key in scalars - set(group)}
    if missing:
        raise ValueError(f"{path} lacks {listed(missing)} of {groups[0]['method']}: nothing could continue from it.")
    lengths = {name: len(value) for name, value in initial.items() if isinstance(value, tuple)}
    for index, group in enumerate(groups):
        where = f"group {index} of {path}"
        check_format(group, where)
        check_order(numbers_of(group, scalars, where, lengths), where)
    owner = {index: group for group in groups for index in group["params"]}
    names = sorted({name for state in packed["state"].values() for name in state})
    for index, state in packed["state"].items():
        specs = method().buffers(owner[index])
        frozen = not any(spec.statistic and name in names for name, spec in specs.items())
        missing = {name for name, spec in specs.items() if not (frozen and spec.statistic)} - set(state)
        if missing:
            raise ValueError(f"{path} lacks the buffers {listed(missing)} of tensor {index}.")
    if not names or (before and names != before):
        raise ValueError(
            f"{path} has the buffers {listed(names) or 'none'}, the other files {listed(before) or 'none'}."
        )
    return names
