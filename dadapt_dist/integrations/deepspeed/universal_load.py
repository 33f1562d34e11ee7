"""Resume a DeepSpeed run on another number of ranks: `convert` its checkpoint, then `load` it.

python -m dadapt_dist.universal checkpoints checkpoints/resharded
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.optimizer import LearningRateFree
from ...files.ownership import check_pickles
from ...options.checks import listed
from . import internals, universal_restore
from .universal_convert import convert, reading_everything
from .universal_restore import MARK
from .zero_files import read_file, tag_folder

__all__ = ["convert", "load"]
STAGE_3 = "DeepSpeedZeroOptimizer_Stage3"
Dict = dict[str, Any]


def load(
    engine: Any, folder: str | Path, tag: str | None = None, *, trust: bool = False, **options: Any
) -> tuple[str, Dict]:
    """Load a universal checkpoint into a DeepSpeed engine, with what DeepSpeed's loader of ZeRO-3 leaves out.

    At stages 1 and 2 `engine.load_checkpoint` itself does as well. DeepSpeed unpickles the files whole, which runs code that
    is in them, so files that another user than you or root owns, or that others may write, are refused.

    Args:
        engine: The engine, with {"checkpoint": {"load_universal": true}} in its config.
        folder: The folder in which `latest_universal` and the tags lie.
        tag: The checkpoint; None: the one that `latest_universal` names.
        trust: True takes files that others may have written all the same.
        options: load_module_strict, load_lr_scheduler_states and custom_load_fn, as `engine.load_checkpoint` has them.

    Returns:
        What `engine.load_checkpoint` returns: the path and the client's state.

    Raises:
        ValueError: The checkpoint is of another method, stage or model, or lacks buffers; nothing has changed.

    Example:
        >>> from dadapt_dist import universal  # doctest: +SKIP
        >>> universal.load(engine, "checkpoints/resharded")  # doctest: +SKIP
    """
    optimizer, kind = _checked(engine, options)
    found = tag_folder(Path(folder), tag, "latest_universal")
    path = found / "zero" / "optimizer_state.pt"
    if not path.is_file():
        raise ValueError(f"{found} is no universal checkpoint: make one, dadapt-dist universal IN OUT.")
    if not trust:
        check_pickles(found, cure="give trust=True")
    saved: Dict = read_file(path)
    _check_fits(engine, optimizer, kind, saved, found)
    with reading_everything():
        result: tuple[str, Dict] = engine.load_checkpoint(str(found.parent), found.name, **options)
    if kind == STAGE_3:
        _fill(engine, optimizer, found, saved["param_groups"][0][MARK])
    else:
        _link_again(engine)
    for live, group in zip(optimizer._all_groups, saved["param_groups"], strict=True):
        live.update({key: value for key, value in group.items() if key not in ("params", MARK)})
    universal_restore.complete(optimizer, saved["param_groups"])
    return result


def _checked(engine: Any, options: Dict) -> tuple[LearningRateFree, str]:
    """The engine's optimizer and the class of what DeepSpeed put around it; ValueError for what cannot load."""
    known = {"load_module_strict", "load_lr_scheduler_states", "custom_load_fn"}
    if set(options) - known:
        raise ValueError(f"load has no option {listed(set(options) - known)}; it has {listed(known)}.")
    optimizer = engine.basic_optimizer
    if not isinstance(optimizer, LearningRateFree):
        raise ValueError(f"the engine's optimizer is {type(optimizer).__name__}, not one of dadapt_dist.")
    if not engine.load_universal_checkpoint():
        raise ValueError(
            'the engine reads no universal checkpoints: put "checkpoint": {"load_universal": true} in its config.'
        )
    kind, _ = internals.wrapper_of(engine)
    if kind not in ("DeepSpeedZeroOptimizer", "BF16_Optimizer", STAGE_3):
        raise ValueError(
            "the engine has ZeRO stage 0, whose checkpoints are not cut: load one that was saved at stage 0 with "
            "engine.load_checkpoint, at any number of ranks."
        )
    if getattr(engine.optimizer, "swap_optimizer", False):
        raise ValueError(
            "with NVMe offload the optimizer's tensors are not in memory together. Load with offload to the CPU, save that "
            "with engine.save_checkpoint, and load it with NVMe offload at the same number of ranks."
        )
    return optimizer, kind


def _check_fits(engine: Any, optimizer: LearningRateFree, kind: str, saved: Dict, found: Path) -> None:
    """Raise ValueError, before DeepSpeed changes anything, for a checkpoint that does not fit."""
    groups, here = saved["param_groups"], optimizer._all_groups
    if (saved.get("zero_stage", 1) == 3) != (kind == STAGE_3):
        raise ValueError(
            f"{found} was saved at ZeRO stage {int(saved.get('zero_stage', 1))}; DeepSpeed loads universal checkpoints of stage "
            "3 at stage 3 only, those of 1 and 2 at 1 and 2. Use such a stage."
        )
    if len(groups) != len(here):
        raise ValueError(f"{found} has {len(groups)} parameter groups, the optimizer {len(here)}: build it with those.")
    for index, group in enumerate(groups):
        universal_restore.check_method(optimizer, group, f"group {index} of {found}")
        universal_restore.check_names(optimizer, group)
    names = engine.optimizer.param_names
    absent = [
        names[share.param] for share in internals.shares(engine) if not (found / "zero" / names[share.param]).is_dir()
    ]
    if absent:
        raise ValueError(f"{found} has no parameters {listed(absent[:5])}: it is of another model.")


def _fill(engine: Any, optimizer: LearningRateFree, found: Path, buffers: list[str]) -> None:
    """Read this rank's part of every buffer of ZeRO-3's flat tensors."""
    for group, p in optimizer._all_params():
        specs = {name: spec for name, spec in optimizer._method.buffers(group).items() if name in buffers}
        dtypes = {name: optimizer._dtypes.of(p, spec) for name, spec in specs.items()}
        optimizer.state[p] = {name: torch.zeros_like(p.detach(), dtype=dtype) for name, dtype in dtypes.items()}
    for share in internals.shares(engine):
        if share.length:
            for name, part in _parts(engine, share, found, list(optimizer.state[share.tensor])):
                optimizer.state[share.tensor][name][share.start : share.start + share.length] = part[: share.length]


def _link_again(engine: Any) -> None:
    """DeepSpeed before 0.19 leaves the links from parameters to their weights pointing to some buffer after such a load."""
    for share in internals.shares(engine):
        link: Any = share.param._hp_mapping  # type: ignore[attr-defined]
        if link is not None:
            link.hp_fragment = share.tensor.narrow(0, share.start, share.length)


def _parts(engine: Any, share: internals.Share, found: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, this rank's part of it) of one parameter's buffers."""
    read = engine.optimizer.load_hp_checkpoint_state
    given = {"param": share.param} if "param" in inspect.signature(read).parameters else {}  # since 0.18.9
    folder = str(found / "zero" / engine.optimizer.param_names[share.param])
    with reading_everything():
        for name in names:
            yield name, read(folder, name, **given)
