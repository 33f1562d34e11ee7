"""Run a script that never imports dadapt_dist with its optimizers: `python -m dadapt_dist.run [SWITCHES] train.py ARGUMENTS`.

It imports dadapt_dist, which makes the names known to DeepSpeed, and runs the script as `python train.py ARGUMENTS` would:
the same arguments, sys.path, `__name__`, `__file__`, traceback and exit code. What differs is what `runpy.run_path` does:
sys.argv[0] is the absolute path, `__loader__` is None and `__package__` empty, and exit handlers no longer find the script in
sys.modules["__main__"]. It starts no processes; that is the launcher's work:

    torchrun --nproc-per-node 8 -m dadapt_dist.run train.py --deepspeed_config zero3.json
    deepspeed --module dadapt_dist.run train.py --deepspeed_config zero3.json
    mpirun -n 8 python -m dadapt_dist.run train.py --deepspeed_config zero3.json

Two switches do more. `--as` lets the optimizers stand in for packages that the script imports (stand_ins.py), `--optim` for
what Hugging Face's Trainer is told by its arguments (trainer_optim.py).
"""

import difflib
import importlib.util
import logging
import os
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from . import stand_ins

logger = logging.getLogger("dadapt_dist.run")

USAGE = """usage: dadapt-dist run [--as PACKAGE,...] [--optim NAME[:option=value,...]] [-m] SCRIPT_OR_MODULE [ARGUMENTS...]

Run a training script with dadapt_dist's optimizers known to DeepSpeed by name. All arguments after the script are the
script's own. `python -m dadapt_dist.run` is the same, for launchers that start python themselves.

  --as prodigyopt,dadaptation   these packages, or one of them, are dadapt_dist's classes wherever the script imports them
  --optim Prodigy:recipe=auto   the optimizer of Hugging Face's Trainer, in the place of what its own --optim names
"""
_LOCAL_RANK = re.compile(r"--local[_-]rank=-?\d+")
_UNKNOWN_NAME = (
    re.compile(r"module 'torch\.optim' has no attribute '(\w+)'"),
    re.compile(r"^(\w+) is not a supported DeepSpeed Optimizer"),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the script that the command line (or `arguments`) names, and end the process as the script would.

    Raises SystemExit with 2 when there is no such script, and whatever the script raises.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    switches = _switches(line)
    if line[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        sys.exit(0)
    as_module = line[:1] == ["-m"]
    if as_module:
        line.pop(0)
    if not line or line[0].startswith("-"):
        got = f"not {line[0]}" if line else "and there is none"
        _stop(f"the first argument must be the script, or -m and a module, {got}\n{USAGE.splitlines()[0]}")
    from .builtin import register_builtin
    from .deepspeed.registration import register

    register_builtin()  # under the console script the public names, which do this, may not be imported
    register()
    try:
        (_run_module if as_module else _run_script)(line[0], [*switches.local_rank, *line[1:]], switches)
    except (AttributeError, AssertionError) as error:
        _hint(error)
        raise
    sys.exit(0)


@dataclass(frozen=True)
class Switches:
    """What stood before the script. local_rank: some launchers put it before the script's arguments, which is there."""

    local_rank: tuple[str, ...] = ()
    packages: str | None = None
    optim: str | None = None

    def apply(self, *, after_first: bool) -> None:
        """Do what they ask for. after_first: whether sys.path begins with the folder of the script."""
        try:
            if self.packages is not None:
                stand_ins.enter(stand_ins.check_names(self.packages), after_first=after_first)
            if self.optim is not None:
                from . import trainer_optim

                trainer_optim.install(trainer_optim.read_choice(self.optim))
        except ValueError as error:
            _stop(str(error))


def _switches(line: list[str]) -> Switches:
    """Take the switches off the front of a command line."""
    local_rank: list[str] = []
    found: dict[str, str] = {}
    while line and (_LOCAL_RANK.fullmatch(line[0]) or line[0].partition("=")[0] in ("--as", "--optim")):
        word = line.pop(0)
        if _LOCAL_RANK.fullmatch(word):
            local_rank.append(word)
            continue
        name, equals, value = word.partition("=")
        if not equals and not line:
            _stop(f"{name} is the last word: it needs a value, and a script after it\n{USAGE.splitlines()[0]}")
        found[name] = value if equals else line.pop(0)
    return Switches(tuple(local_rank), found.get("--as"), found.get("--optim"))


def _run_script(script: str, arguments: list[str], switches: Switches) -> None:
    if not os.path.exists(script):
        _stop(f"{script} does not exist in {os.getcwd()}: name the script first, its arguments after it")
    if os.path.isdir(script) and not os.path.exists(os.path.join(script, "__main__.py")):
        _stop(f"{script} is a folder without a __main__.py: name the script in it")
    sys.argv = [script, *arguments]
    path = os.path.abspath(script)  # __file__ is absolute, as with python
    holds_main = os.path.isdir(path) or not _is_text(path)  # a folder or an archive with a __main__.py
    has_folder = _first_on_path(None if holds_main else os.path.dirname(os.path.realpath(path)))
    switches.apply(after_first=has_folder)
    runpy.run_path(script if holds_main else path, run_name="__main__")


def _run_module(name: str, arguments: list[str], switches: Switches) -> None:
    switches.apply(after_first=_first_on_path(os.getcwd()))
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        found = None
    if found is None:
        _stop(
            f"there is no module {name} on sys.path, nor in {os.getcwd()}: check its name, or run a script by its path"
        )
    sys.argv = [found.origin or name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _first_on_path(folder: str | None) -> bool:
    """Put the script's folder where python put the one of `dadapt-dist` (or of -m), unless told to put none. In place.

    Returns whether it stands there now.
    """
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):  # the latter: since Python 3.11
        return False
    sys.path[:1] = [] if folder is None else [folder]
    return folder is not None


def _is_text(path: str) -> bool:
    with open(path, "rb") as file:
        return b"\0" not in file.read(1024)


def _hint(error: BaseException) -> None:
    """Log which of our names was meant, if DeepSpeed did not find a name near one of them."""
    from ..methods.registry import class_names

    for pattern in _UNKNOWN_NAME:
        for asked in pattern.findall(str(error)):
            lower = {name.lower(): name for name in class_names()}
            near = difflib.get_close_matches(asked.lower(), lower, n=1, cutoff=0.7)
            if near and lower[near[0]] != asked:
                logger.error("the optimizer type %r is unknown; did you mean %r? Case counts.", asked, lower[near[0]])


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"dadapt-dist run: {message}\n")
    sys.exit(2)
