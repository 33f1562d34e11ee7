"""Make the report of a run: read the logs and what lies beside them, draw, write one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from ...files.whole_write import write_whole
from ...monitor.find_runs import open_runs
from ...monitor.plot import readable
from .page import MARK, page
from .pictures import pictures
from .settings import settings_of

__all__ = ["write_report"]


def write_report(run: Path, others: Sequence[Path], out: Path) -> Path:
    """Write the page on a run, compared with others; returns its path.

    Args:
        run: The log of a run, or its folder.
        others: Of other runs.
        out: The page. An older report is replaced, nothing else.

    Raises:
        ImportError: matplotlib is not installed, or tensorboard to read its files.
        OSError: A log cannot be read, or the page not be written.
        ValueError: A log has neither loss, d nor a learning rate, or something that is no report stands at `out`.
    """
    if out.is_dir() or (out.exists() and not _is_report(out)):
        raise ValueError(f"{out} exists and is no report: name another file with --out")
    logs = [readable(log) for log in open_runs([run, *others])]
    settings = [settings_of(log.path if log.path.is_dir() else log.path.parent) for log in logs]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = page(logs, settings, pictures(logs))
    write_whole(out, text.encode("utf-8", "replace").decode())  # names of files, and escapes in JSON, may be no text
    return out


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(4096)
