"""Convert a DeepSpeed checkpoint into a universal one, with all buffers, for another number of ranks.

DeepSpeed's converter, deepspeed.checkpoint.ds_to_universal, knows the names of Adam's state: fp32, exp_avg, exp_avg_sq.
It is run as often as needed, each time with other buffers under these names, and the results are put together.
"""

import io
import logging
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files.ownership import check_pickles
from ..known_issues import parts
from .internals import version
from .universal_restore import ADAMS, MARK
from .zero_files import OPTIM, Saved, optimizer_of, read, read_file, tag_folder

logger = logging.getLogger(__name__)
Dict = dict[str, Any]
Pass = dict[str, str | None]  # a name that DeepSpeed's converter knows -> the buffer in its place; None: nothing of use
PARAM = "param"
INFO = "universal_checkpoint_info"


def convert(
    checkpoint: str | Path, output: str | Path, tag: str | None = None, workers: int = 1, *, trust: bool = False
) -> Path:
    """Convert a ZeRO checkpoint (stage 1, 2 or 3) of an optimizer of this package into a universal checkpoint.

    DeepSpeed's converter unpickles the files whole, which runs code that is in them, so files that another user than you or
    root owns, or that others may write, are refused.

    Args:
        checkpoint: The folder given to `engine.save_checkpoint`, or the folder of one tag in it.
        output: The new folder, named like a tag; the file `latest_universal` beside it gets its name. It appears when it is
            whole: after an error there is none.
        tag: The checkpoint of the folder; None: the one that `latest` names.
        workers: Processes that read and merge.
        trust: True takes files that others may have written all the same.

    Returns:
        The path of the new folder.

    Raises:
        ValueError: The folder is no such checkpoint, was written by another optimizer, lacks buffers, or cannot be converted
            by DeepSpeed; or the output exists.

    Example:
        >>> from dadapt_dist import universal  # doctest: +SKIP
        >>> universal.convert("checkpoints", "checkpoints/resharded")  # doctest: +SKIP
    """
    source, target = tag_folder(Path(checkpoint), tag), Path(os.path.abspath(output))
    if target.exists():
        raise ValueError(f"{target} exists: give another output, or remove it. Nothing was written.")
    if not trust:
        check_pickles(source, cure="give trust=True (--trust)")
    saved = read(source)
    _check_deepspeed(saved.stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        whole = _put_together(saved, Path(folder), workers)
        _check_whole(saved, whole)
        os.rename(whole, target)
    _write_latest(target)
    logger.info("universal checkpoint with %s: %s", ", ".join(saved.buffers), target)
    return target


# ---------------------------------------------------------------- several conversions, put together


def passes(buffers: list[str], anchors: list[str]) -> list[Pass]:
    """Which buffers take the places of fp32, exp_avg and exp_avg_sq in each run; in the first, fp32 are the weights.

    x0 takes the place of the weights: tensor-parallel layouts may scale weights in another way than state.
    """
    anchors = list(anchors)
    others = [name for name in buffers if name not in ADAMS and name not in anchors]
    runs: list[Pass] = [{"fp32": "fp32", **{name: name for name in sorted(ADAMS & set(buffers))}}]
    while others or anchors or not runs[0].keys() >= ADAMS:
        run = runs[-1]
        for place, source in (("fp32", anchors), ("exp_avg", others), ("exp_avg_sq", others)):
            if place not in run:
                run[place] = source.pop(0) if source else None
        if others or anchors:
            runs.append({})
    return runs


def _put_together(saved: Saved, folder: Path, workers: int) -> Path:
    """Run DeepSpeed's converter as often as needed; the folder with everything."""
    whole = folder / "whole"
    for number, run in enumerate(passes(saved.buffers, saved.anchors)):
        aliased, result = folder / "aliased", folder / "result"
        _write_aliased(saved, aliased, run)
        _run_deepspeed(saved.folder, aliased, result, workers)
        shutil.rmtree(aliased)
        for param in sorted((result / "zero").glob("*/")):
            _take(param, whole / "zero" / param.name if number else param, run)
        if number:
            shutil.rmtree(result)
        else:
            os.rename(result, whole)
    _write_groups(saved, whole)
    _write_placeholders(saved, whole)
    return whole


def _take(result: Path, whole: Path, run: Pass) -> None:
    """Give one parameter's buffers of this run their own names. A frozen parameter has none."""
    if (result / "exp_avg.pt").exists():
        for place, name in run.items():
            if name is None:
                (result / f"{place}.pt").unlink()
            else:
                os.rename(result / f"{place}.pt", whole / f"{name}.pt")


def _write_aliased(saved: Saved, folder: Path, run: Pass) -> None:
    """The checkpoint, with the buffers of this run under the names that DeepSpeed knows."""
    folder.mkdir()
    for path in saved.folder.iterdir():
        if path in saved.files:
            content = read_file(path)
            _alias(content, run)
            torch.save(content, folder / path.name)
        elif path.is_file():
            _link(path, folder / path.name)


def _alias(content: Dict, run: Pass) -> None:
    stage, packed = optimizer_of(content)
    weights = content[OPTIM]["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
    for index, state in packed["state"].items():
        anything = next(iter(state.values()))
        taken = {place: state.get(name, anything) for place, name in run.items() if place != "fp32"}
        if run["fp32"] != "fp32":
            weights[index] = state.get(run["fp32"], anything)
        packed["state"][index] = taken


def _link(path: Path, link: Path) -> None:
    """A link; of a file that an older DeepSpeed converts only when it says how, a copy that says that there is nothing."""
    from deepspeed.checkpoint import ds_to_universal

    if path.name.startswith("mp_rank_") and not hasattr(ds_to_universal, "_inject_missing_state"):
        content = read_file(path)
        content.setdefault(INFO, {"universal_checkpoint_version": 0.2})
        torch.save(content, link)
    else:
        os.symlink(path.resolve(), link)


def _check_deepspeed(stage: int) -> None:
    from deepspeed.checkpoint import ds_to_universal

    if stage == 3 and not hasattr(ds_to_universal, "extract_zero_shards_stage3"):
        raise ValueError(f"DeepSpeed {version()} cannot convert checkpoints of stage 3: install 0.14.5 or newer.")


def _run_deepspeed(source: Path, aliased: Path, output: Path, workers: int) -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = Namespace(
        input_folder=str(aliased),
        output_folder=str(output),
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), reading_everything():
            ds_to_universal.main(options)
    except Exception as error:
        raise ValueError(
            f"DeepSpeed {version()} cannot convert {source}: {type(error).__name__}: {error}. Nothing was written."
        ) from error


@contextmanager
def reading_everything() -> Iterator[None]:
    """Let DeepSpeed before 0.16 read its files as torch did before 2.6: whole objects, not weights alone.

    For these releases there is no other way than a variable of the environment, which holds for the whole process and
    those that it starts meanwhile: a torch.load in another thread reads whole objects, too. Newer ones say for each
    file what they want, and for them nothing is set.
    """
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    if parts(version()) >= [0, 16]:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _write_groups(saved: Saved, whole: Path) -> None:
    """Name the buffers in every group; at stage 3, leave out rank 0's shards, which every rank would read for nothing."""
    path = whole / "zero" / "optimizer_state.pt"
    content = read_file(path)
    groups = content["param_groups"] = [group | {MARK: saved.buffers} for group in content["param_groups"]]
    if saved.stage == 3:
        del content["fp32_flat_groups"]
        state = {0: {"step": int(groups[0]["steps"])}}  # the loader takes the step from here
        content[OPTIM] = {"param_groups": groups, "state": state}
    part = path.with_name(f".{path.name}")  # the tensors of `content` still lie in the file
    torch.save(content, part)
    os.replace(part, path)


def _write_placeholders(saved: Saved, whole: Path) -> None:
    """The loader of stage 3 reads exp_avg and exp_avg_sq whatever the method: zeros, of one element on disk."""
    for name in ADAMS - set(saved.buffers) if saved.stage == 3 else ():
        for path in (whole / "zero").glob("*/fp32.pt"):
            content = read_file(path)
            zeros = torch.zeros(1).expand(_tensor(content).shape)
            torch.save({**content, PARAM: zeros} if isinstance(content, dict) else zeros, path.with_name(f"{name}.pt"))


def _tensor(content: Any) -> Tensor:
    found: Tensor = content[PARAM] if isinstance(content, dict) else content
    return found


def _check_whole(saved: Saved, whole: Path) -> None:
    """Raise ValueError when a parameter did not come out whole: the files of a rank may be gone."""
    shapes = {}
    for path in sorted(saved.folder.glob("*_model_states.pt")):
        named = read_file(path).get("param_shapes") or []
        shapes.update({name: shape for group in named for name, shape in group.items()})
    bad = [f"{n}/{b}" for n in sorted(shapes) for b in saved.buffers if not (whole / "zero" / n / f"{b}.pt").exists()]
    if not bad:
        found = {name: _tensor(read_file(whole / "zero" / name / "fp32.pt")).numel() for name in shapes}
        bad = [
            f"{found[name]} elements of {name}" for name, shape in sorted(shapes.items()) if found[name] < shape.numel()
        ]
    if bad:
        raise ValueError(
            f"{saved.folder} lacks the files of some ranks: {bad[0]} did not come whole. Nothing was written."
        )


def _write_latest(target: Path) -> None:
    """Let `latest_universal` name the new folder: DeepSpeed's loader goes by it. It is replaced whole."""
    pointer = target.parent / "latest_universal"
    part = pointer.with_name(f".{pointer.name}-{os.getpid()}")
    part.write_text(target.name)
    os.replace(part, pointer)
