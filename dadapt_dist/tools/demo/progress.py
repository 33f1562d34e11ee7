"""Show a run's progress: a bar with loss, d and d·lr, or plain lines if the output is not a terminal."""

import time
from collections.abc import Mapping

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
except ImportError as error:
    raise ImportError("the demo needs rich: pip install 'dadapt-dist[cli]'") from error

from ...monitor import names

LINE_EVERY = 5.0  # seconds
_LABELS = {names.EFFECTIVE_LR: "d·lr", names.ADAMW_LR: "AdamW lr"}
_NOT_SHOWN = (names.LR, *names.NORMS, "ranks_with_same_d")


class Progress:
    """A progress bar over `steps`, starting at `start`; with visible=False every call does nothing."""

    def __init__(self, steps: int, start: int = 0, *, visible: bool = True) -> None:
        self.steps, self.visible = steps, visible
        self._console = Console()
        self._last_line = -LINE_EVERY
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, disable=not visible or not self._console.is_terminal)
        self._task = self._bar.add_task("", total=steps, completed=start)

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the state after a step."""
        if not self.visible:
            return
        text = "  ".join(
            _said(key, value)
            for key, value in numbers.items()
            if key not in _NOT_SHOWN and (value or key not in names.HELD_BECAUSE)
        )
        self._bar.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if not self._console.is_terminal and (now >= self._last_line + LINE_EVERY or step == self.steps):
            self._console.print(f"step {step}/{self.steps}  {text}", highlight=False, soft_wrap=True)
            self._last_line = now

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _said(key: str, value: float) -> str:
    if key == names.LOSS:
        return f"loss {value:.3f} bits/byte"
    return f"{_LABELS.get(key, key.replace('held_', 'held '))} {value:.4g}"
