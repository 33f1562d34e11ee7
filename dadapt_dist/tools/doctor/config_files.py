"""Find what is wrong in config files, and in those that they name."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import deepspeed_config, huggingface_configs
from .findings import Finding, Findings, key_name, nearest, section, shown
from .reading import Settings, UnreadableError, read_settings

KNOWN = (
    f"neither DeepSpeed's ({', '.join(deepspeed_config.MARKS)}, optimizer), nor Accelerate's (distributed_type), nor the "
    "Trainer's (output_dir, learning_rate)"
)


@dataclass
class Report:
    """What was found in files.

    checked: file, kind of config, and what is wrong in it. unreadable: why others could not be checked.
    """

    checked: list[tuple[Path, str, list[Finding]]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def counts(self) -> tuple[int, int]:
        """How many findings are wrong, and how many could be better."""
        found = [finding for _, _, findings in self.checked for finding in findings if not finding.is_note]
        wrong = sum(finding.is_error for finding in found)
        return wrong, len(found) - wrong

    def verdict(self) -> str:
        """All findings in one line."""
        wrong, better = self.counts()
        files = "1 file" if len(self.unreadable) == 1 else f"{len(self.unreadable)} files"
        parts = [f"{n} {what}" for n, what in ((wrong, "wrong"), (better, "could be better")) if n]
        parts += [f"{files} could not be checked"] if self.unreadable else []
        return f"verdict: {', '.join(parts) or 'nothing wrong'}"


def check_all(paths: Iterable[Path]) -> Report:
    """What is wrong in every file that can be read, and why another cannot be."""
    report = Report()
    for path in paths:
        _check(path, (), report)
    return report


def _check(path: Path, named_by: tuple[Path, ...], report: Report, lr: Any = None) -> None:
    """Add what is wrong in a config, and in those that it names.

    named_by: the files that led here. lr: what the last of them fills in for "auto".
    """
    try:
        settings = _named(path, named_by)
        _judge(path, settings, named_by, report, lr)
    except UnreadableError as error:
        report.unreadable.append(str(error))
    except RecursionError:
        report.unreadable.append(f"{path} is nested too deeply")


def _judge(path: Path, settings: Settings, named_by: tuple[Path, ...], report: Report, lr: Any) -> None:
    config = settings.values
    if huggingface_configs.is_accelerate(config):
        found = [*_file(settings), *huggingface_configs.check_accelerate(config)]
        report.checked.append((path, "Accelerate", found))
        named = section(config, "deepspeed_config").get("deepspeed_config_file")
        _follow(path, "deepspeed_config.deepspeed_config_file", named, named_by, report)
    elif deepspeed_config.is_one(config):
        alone = not named_by
        found = [*_file(settings, of_deepspeed=alone), *deepspeed_config.check(config, alone=alone, lr=lr)]
        report.checked.append((path, "DeepSpeed", found))
    elif huggingface_configs.is_trainer(config):
        found = [*_file(settings), *huggingface_configs.check_trainer(config)]
        report.checked.append((path, "TrainingArguments", found))
        lr = config.get("learning_rate", huggingface_configs.TRAINERS_LR)
        _follow(path, "deepspeed", config.get("deepspeed"), named_by, report, lr)
    else:
        raise UnreadableError(f"{path} is no config that is known: {KNOWN}{_meant(config)}")


def _follow(path: Path, where: str, named: Any, named_by: tuple[Path, ...], report: Report, lr: Any = None) -> None:
    """Check what another file names: settings, or a file, relative to that one or to where the job starts."""
    if isinstance(named, Mapping):
        report.checked.append((path, "its DeepSpeed", [*deepspeed_config.check(named, alone=False, lr=lr)]))
        return
    if named is None or named == "":
        return
    if not isinstance(named, str) or "\0" in named:
        report.unreadable.append(f"{path}: {where} is {shown(named)}, which cannot be the name of a file")
        return
    beside, here = path.parent / named, Path(named)
    if not os.path.lexists(beside) and not os.path.lexists(here):
        folders = dict.fromkeys((os.path.abspath(path.parent), os.getcwd()))
        place = shown(named) if os.path.isabs(named) else f"{shown(named)}, looked for in {' and '.join(folders)}"
        report.unreadable.append(f"{path} names a file that does not exist ({where}: {place}): correct the path there")
        return
    if not os.path.lexists(here):
        cure = f"start the job in {os.path.abspath(path.parent)}, or write the whole path"
        problem = f"{named} lies beside this file, and is looked for in the folder where the job starts"
        report.checked[-1][2].append(Finding(where, problem, cure, is_error=False))
    _check(beside if os.path.lexists(beside) else here, (*named_by, path), report, lr)


def _named(path: Path, named_by: tuple[Path, ...]) -> Settings:
    """The settings in a file; an error says which file named it."""
    if os.path.realpath(path) in map(os.path.realpath, named_by):
        raise UnreadableError(f"{path} names itself, by {', '.join(map(str, named_by))}")
    try:
        return read_settings(path)
    except UnreadableError as error:
        if not named_by:
            raise
        raise UnreadableError(f"{error} ({named_by[-1]} names it)") from error


def _file(settings: Settings, *, of_deepspeed: bool = False) -> Findings:
    """What is wrong with the file as such. of_deepspeed: DeepSpeed itself reads it, not Accelerate or the Trainer."""
    for name in dict.fromkeys(settings.twice):
        problem = "given twice; DeepSpeed refuses the file" if of_deepspeed else "given twice; only the last one counts"
        yield Finding(key_name(name), problem, "leave one out", is_error=of_deepspeed)
    if not (settings.is_plain or of_deepspeed):
        cure = "write plain JSON, without comments and without a comma at the end of a list"
        yield Finding(
            "the file", "only DeepSpeed itself reads JSON like this; Accelerate and the Trainer refuse it", cure
        )


def _meant(config: Mapping[Any, Any]) -> str:
    """The known name that one of a file's is like."""
    marks = (*deepspeed_config.MARKS, "distributed_type", "output_dir", "learning_rate", "deepspeed_config")
    for name in config:
        near = nearest(str(name), marks, cutoff=0.75)
        if near:
            return f". Did {str(name)[:60]!r} mean {near}?"
    return ""
