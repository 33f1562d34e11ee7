"""How every command ends: one line and exit code 2 for bad input, 130 for Ctrl-C, and no traceback for what users do."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from .printable import printable

__all__ = ["USER_ERRORS", "Commands", "console", "errors", "or_2", "reason"]

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)
USER_ERRORS = (ValueError, OSError, ImportError)
BAD_INPUT, INTERRUPTED = 2, 130
HELP = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The commands, with one way to end for all of them. `run` is left alone: its errors are the script's own."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and end the process, as TyperGroup.main."""
        words = list(sys.argv[1:] if args is None else args)
        start = functools.partial(super().main, args, *rest, **extra)
        if not standalone_mode or words[:1] == ["run"]:
            return start(standalone_mode=standalone_mode)
        _bear_any_letter(sys.stdout)
        sys.exit(self._code(start))

    def _code(self, start: Callable[..., Any]) -> int:
        try:
            code = start(standalone_mode=False)
            if stdout := getattr(sys, "stdout", None):  # None where it was closed: dadapt-dist --help >&-
                stdout.flush()
        except USER_ERRORS as error:  # of an option, or a full disk
            return _refuse(reason(error))
        except Exception as error:
            if not hasattr(error, "format_message"):  # what the parser raises has one, in every release of typer
                raise
            return _misused(error)
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was chosen."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.invoked_subcommand == "run":
                raise
            errors.print("stopped by Ctrl-C")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # `| head` has seen enough
            raise
        except USER_ERRORS as error:
            if ctx.invoked_subcommand == "run":
                raise
            raise typer.Exit(_refuse(reason(error))) from error


def _bear_any_letter(stream: Any) -> None:
    """Write ? for letters that a terminal's encoding lacks, as of d·lr in ASCII, or of names of files that are no text."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def or_2(work: Callable[[], int]) -> int:
    """The exit code of `work`; bad input becomes one line and exit code 2."""
    try:
        return int(work())
    except BrokenPipeError:
        raise
    except USER_ERRORS as error:
        return _refuse(reason(error))


def reason(error: BaseException) -> str:
    """An error in words, on one line: of the system's errors what happened to which file, without their number."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return printable(f"{' and '.join(names)}: {error.strerror}" if names else error.strerror)
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _refuse(said: str) -> int:
    errors.print(f"error: {said}", markup=False)
    return BAD_INPUT


def _misused(error: Any) -> int:
    """A command line that is none."""
    if type(error).__name__ == "NoArgsIsHelpError":
        if error.format_message():
            error.show()
        return BAD_INPUT
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dadapt-dist"
    said = " ".join(str(error.format_message()).split()).rstrip(".")
    return _refuse(f"{printable(said)}; {command} --help says what there is")
