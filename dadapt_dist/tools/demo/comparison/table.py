"""Say in tables and sentences what a comparison found."""

from rich import box
from rich.table import Table
from rich.text import Text

from ..wording import LAYOUTS
from .logs import DIGITS, Group, Released, Trace, telling_places


def group_table(group: Group) -> Table:
    """A row for each run in a dtype, with its last d: the digits that all layouts share are bold."""
    title = f"{group.dtype}: the same training under each layout"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("layout", no_wrap=True)
    table.add_column("processes", justify="right", min_width=9)
    table.add_column(f"d at step {group.base.steps[-1]}", no_wrap=True)
    table.add_column("relative difference of d, at most", justify="right", min_width=10)
    table.add_column("ranks with this d", justify="right", min_width=6)
    table.add_column("held-out bits/byte", justify="right", min_width=9)
    count = group.shared(-1)[1]
    for trace in (group.base, *group.layouts, group.reordered):
        difference = "" if trace is group.base else f"{max(trace.deviations(group.base)):.1e}"
        equal = f"{min(trace.same_on)} of {trace.ranks}"
        style = "dim" if trace is group.reordered else ""
        d = _marked(trace.d[-1], count)
        table.add_row(trace.name, str(trace.ranks), d, difference, equal, f"{trace.held_out:.5f}", style=style)
    return table


def steps_table(groups: list[Group]) -> Table:
    """d at several steps, in the digits that all layouts share."""
    title = "d in the leading digits that all layouts share, and their number"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("step", justify="right")
    for group in groups:
        table.add_column(group.dtype, no_wrap=True)
        table.add_column("digits", justify="right")
    for place in telling_places(groups[0].base.d):
        cells = [cell for group in groups for cell in _digits(group, place)]
        table.add_row(str(groups[0].base.steps[place]), *cells)
    return table


def sentences(groups: list[Group], released: Released | None) -> list[str]:
    """What the tables show, in words; every number comes from the logs."""
    lines = []
    for group in groups:
        names = " and ".join(filter(None, [", ".join(t.name for t in group.layouts[:-1]), group.layouts[-1].name]))
        count = group.shared(-1)[1]
        lines.append(
            f"{group.dtype}: the last d of {names} is that of one process in its first {count} digit{'s'[: count != 1]}; at no "
            f"step is the relative difference above {group.largest:.1e}."
        )
    controls = " and ".join(f"{max(g.reordered.deviations(g.base)):.1e} in {g.dtype}" for g in groups)
    lines.append(
        "For scale (reversed): one process that takes the rows of each batch in reverse order, which changes nothing but "
        f"the order of additions, differs from itself by {controls}. Training amplifies such roundings."
    )
    zero = [LAYOUTS[trace.name] for group in groups for trace in group.layouts if trace.name.startswith("zero")]
    if zero:
        lines.append(f"{', '.join(zero)}: in float32 only, because DeepSpeed keeps its weights in float32.")
    lines.append(_about_ranks(groups))
    if released is not None:
        ranks = " and ".join(f"{d[-1]:.4g} on rank {rank}" for rank, d in enumerate(released.ranks))
        lines.append(
            f"For contrast, prodigyopt {released.version} by itself (its defaults, lr 1, float64) in this training: "
            f"d is {released.alone[-1]:.4g} on one process; under FSDP2 it is {ranks}."
        )
    return lines


def apart(groups: list[Group]) -> list[str]:
    """The runs in which the ranks' d was not the same, bit for bit, at every step."""
    return [f"{trace.name} ({group.dtype})" for group in groups for trace in _all(group) if not trace.is_same_on_all]


def _all(group: Group) -> tuple[Trace, ...]:
    return (group.base, group.reordered, *group.layouts)


def _about_ranks(groups: list[Group]) -> str:
    steps = len(groups[0].base.steps)
    if differing := apart(groups):
        return f"The ranks did NOT hold the same d at all of {steps} steps: {', '.join(differing)}."
    return f"In every run, all ranks held the same d, bit for bit, at each of {steps} steps (gathered and compared in the run)."


def _digits(group: Group, place: int) -> tuple[str, str]:
    shared, count = group.shared(place)
    return shared or "none", "all" if count == DIGITS else str(count)


def _marked(value: float, count: int) -> Text:
    """A number with all its digits, of which the first `count` are bold."""
    text = Text(f"{value:.{DIGITS - 1}e}")
    if count:
        text.stylize("bold", 0, count + (count > 1))
    return text
