"""Show a run's progress: a bar with loss, d and d·lr, or plain lines if the output is not a terminal."""

from collections.abc import Mapping

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
except ImportError as error:
    raise ImportError("the demo needs rich: pip install dadapt-dist[demo]") from error

from ...monitor import names


class Progress:
    """A progress bar over `steps`, starting at `start`; with visible=False every call does nothing."""

    def __init__(self, steps: int, start: int = 0, *, visible: bool = True) -> None:
        self.steps, self.visible = steps, visible
        self._console = Console()
        self._next_line = start
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, disable=not visible or not self._console.is_terminal)
        self._task = self._bar.add_task("", total=steps, completed=start)

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show the state after a step."""
        if not self.visible:
            return
        shown = {
            key: value for key, value in numbers.items() if key != names.LR and (value or key not in names.HELD_BECAUSE)
        }
        text = "  ".join(f"{_label(key)} {value:.4g}" for key, value in shown.items())
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal and (step >= self._next_line or step == self.steps):
            self._console.print(f"step {step}/{self.steps}  {text}", highlight=False, soft_wrap=True)
            self._next_line = step + max(1, self.steps // 10)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _label(key: str) -> str:
    return key.replace("effective_lr", "d·lr").replace("adamw_lr", "AdamW lr").replace("held_", "held ")
