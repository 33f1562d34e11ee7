"""The pages of docs/reference that list what the code has: commands, keys of parameter groups, keys of a state dict.

`make format` writes them, by `dadapt_dist.tools.generate`.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer

from ..integrations.run_script import USAGE
from ..methods import METHODS, Buffer, Method
from ..methods.registry import class_name
from .cli import app

# Options whose value is a path; that of others is called by the option's own name.
_PATHS = ("json", "out", "plot", "runs", "text")
_GENERATED = "<!-- Written by `make format` from the code. -->"
_CLI = """\
# Command line

The commands of `dadapt-dist`, which come with `pip install dadapt-dist[cli]`. Each ends with exit status 0 where it
did its work, with 2, after one line, where its input is wrong, and with 130 after Ctrl-C; `doctor` ends with 1 where it
finds something wrong. `python -m dadapt_dist` is the same program.
`dadapt-dist --install-completion` lets your shell complete commands, options and the names that options take.
"""
_GROUPS = """\
# Keys of a parameter group

What you may give to a group, `{"params": [...], "lr": 0.5}`, and read in `optimizer.param_groups`. An option that a
group leaves out is that of the constructor. Unknown options raise `TypeError`, values out of range `ValueError`,
before anything moves. [State dict](state-dict.md) lists the scalars that stand beside them, and
[methods](../methods.md#groups-and-estimates-of-their-own) explains groups with estimates of their own.

| key | value | classes | meaning |
|---|---|---|---|
| `params` | tensors, or (name, tensor) pairs | all | the parameters; with pairs torch keeps the names as `param_names` |
"""
_STATE = """\
# Keys of a state dict

What `optimizer.state_dict()` holds: `param_groups`, a list of dicts, and `state`, a dict with the buffers of each
parameter. The format is number 1. [State and checkpoints](../state.md) explains saving, loading and resharding.

## Scalars in `param_groups`

Beside the [options](groups.md) each group has the scalars of its estimate, as Python numbers; those marked *vector*
are tuples of numbers. With `estimates="per_tensor"` each is a list with one entry a tensor. Keys marked *while on*
stand in a group only while their option is on.

"""
_BUFFERS = """\

## Buffers in `state`

Each has the shape, the placement and the device of its parameter (a DTensor for a DTensor) and is of float32, or of
the parameter's dtype where that is wider, or of `state_dtype`. With `statistics_dtype` the buffer `s` is of that
dtype, and x0 or p0 of the parameter's. `freeze_after` drops those of the classes that the last column names.
Parameters that do not train have none. Entries that wrappers of other packages add are kept.

"""
_BASE = """
Under `Mechanic` and `TRAC` the buffers of the base optimizer stand beside them as `direction.` and their own name,
such as `direction.exp_avg`, in the shapes that the base gives them; its options are those of its groups.
"""
# Scalars that the caller of a method keeps, and entries that are no scalars: key, classes, meaning.
_KEPT = (
    ("d", "those with a d", "the estimate of D of the coming step"),
    ("k", "all", "steps in which the estimate moved"),
    ("held", "all", "steps held because a gradient was not finite"),
    ("steps", "all", "steps taken, a whole number"),
    ("started", "AdaGradPP, AdamPP, DoG, LDoG", "1 once the sums of the start are in"),
    ("updates", "those that count them", "steps in which something could move"),
    (
        "mode",
        "those with an average, while on; Schedule-Free",
        '`"train"` or `"eval"`: which of the two the parameters hold',
    ),
    ("method", "all", "name of the method"),
    ("format", "all", "version of the format, 1"),
    ("tensor_estimates", 'all, with `estimates="per_tensor"`', "names of the tensors"),
    ("params", "all", "numbers of the group's parameters, the keys of `state`"),
    ("param_names", "all, given named parameters", "their names, kept by torch"),
)
_ELSE = "see the equations in [methods](../methods.md)"  # so that a new method touches no other file
_SCALARS = {
    "averaged": "steps that the average has seen (while on)",
    "bets": "amounts that the tuners bet (vector)",
    "d_before": "d of the step before",
    "d_max": "largest estimate so far",
    "element_count": "number of elements that train, on all ranks",
    "g0_norm": "‖g0‖, norm of the first gradient",
    "g_sq_sum": "Σ ‖g‖² over the steps",
    "given_d": "d that was set by hand; 0: none",
    "gsq_weighted": "weighted sum of squared gradients",
    "largest": "largest gradient norm so far",
    "last_gamma": "step size of the step before",
    "model": "loss that the model foretells for the end of the step",
    "norm": "average of the gradient norm",
    "numerator": "numerator of the estimate",
    "penalty_sum": "what is taken off the numerator",
    "probe_best": "the probe's best estimate (while on)",
    "probe_ended": "the step at which the probe ended (while on)",
    "probe_first": "the probe's first step (while on)",
    "probe_good": "the largest trial step that went well (while on)",
    "probe_phase": "1 while it tries, 2 while it puts the weights back, else 0 (while on)",
    "probe_step": "the size of its present step (while on)",
    "products": "largest product of gradient and distance (vector)",
    "rate": "learning rate of the step",
    "rate_max": "largest learning rate so far",
    "rewards": "what the tuners have won (vector)",
    "rounds": "rounds of betting",
    "s_sq_last": "‖s‖² of the step before",
    "scale_unit": "unit that the tuners start from",
    "share": "part of the cap that the step takes",
    "sigmas": "sums of what the tuners saw (vector)",
    "variances": "sums of squares of what the tuners saw (vector)",
    "wealth": "wealth of the bettor",
    "weight": "weight of the step",
    "weight_m": "total weight in exp_avg (while on)",
    "weight_sum": "sum of the weights",
    "weight_v": "total weight in exp_avg_sq (while on)",
    "weighted_sum": "sum of d²·‖g‖²",
}
_OF_BUFFERS = {
    "alphak": "sum of squared gradients, weighted",
    "average": "average of the weights (while on)",
    "coins": "sum of the coins that the bettor saw",
    "delta": "sum of what the steps of the base take off",
    "exp_avg": "average of the gradient",
    "exp_avg_diff": "average of the differences of gradients",
    "exp_avg_sq": "average of the squared gradient",
    "largest": "largest gradient so far",
    "max_exp_avg_sq": "largest exp_avg_sq so far",
    "momentum": "average of the gradient",
    "momentum_buffer": "average of the gradient (while on)",
    "p0": "the start x0",
    "pre_grad": "the gradient of the step before; NaN until there was one",
    "reward": "what the bettor has won",
    "rounds": "rounds of betting",
    "s": "weighted sum of gradients",
    "sum_sq": "sum of squared gradients",
    "total": "sum of the sizes of the gradients",
    "wealth": "wealth of the bettor",
    "x0": "the start",
    "z": "the point that the gradients move, of which the weights are an average",
}
# Options that bring keys of their own.
_ON: tuple[dict[str, Any], ...] = (
    {},
    {"recipe": "auto", "total_steps": 1000},
    {"average": 8.0},
    {"average": True},
    {"momentum": 0.9},
    {"normalizer": "sum"},
)


def pages() -> dict[str, str]:
    """Each page's text, by its path in a checkout."""
    folder = "docs/reference"
    return {f"{folder}/cli.md": cli(), f"{folder}/groups.md": groups(), f"{folder}/state-dict.md": state_dict()}


def cli() -> str:
    """The commands, with their arguments and options."""
    root: Any = typer.main.get_command(app)
    parts = [_CLI.strip(), _GENERATED]
    for words, command in _commands(root, ["dadapt-dist"]):
        name = " ".join(words[1:])
        shown = [p for p in command.params if not p.hidden and p.name != "help"]
        arguments = [_argument(p) for p in shown if p.param_type_name == "argument"]
        has_options = any(p.param_type_name == "option" for p in shown)
        usage = (
            USAGE.strip() if name == "run" else " ".join([*words, *arguments, *(["[OPTIONS]"] if has_options else [])])
        )
        parts += [f"## {name}", textwrap.dedent(command.help or "").strip(), f"```text\n{usage}\n```"]
        if shown:
            rows = [f"| {_flags(p)} | {_default(p)} | {_cell(p.help or '')} |" for p in shown]
            parts.append("\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, [*words, name])
        else:
            yield [*words, name], command


def _argument(param: Any) -> str:
    name = param.name.upper() + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _flags(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.name.upper()}`"
    value = "" if param.is_flag else " PATH" if param.name in _PATHS else f" {param.name.upper()}"
    return ", ".join(f"`{flag}{value}`" for flag in (*param.opts, *param.secondary_opts))


def _default(param: Any) -> str:
    if param.required:
        return "must be given"
    if isinstance(param.show_default, str):
        return "" if param.show_default == "none" else _cell(param.show_default)
    value = param.opts[0] if param.default is True else param.default
    return "" if value in (None, False) or callable(value) else f"`{value}`"


def _cell(text: str) -> str:
    """Text as it may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def groups() -> str:
    """The options that groups may have."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for method in METHODS.values():
        for name, check in method.options.checks().items():
            found.setdefault((name, check.allowed, check.doc), []).append(class_name(method))
    entries = sorted(found.items(), key=lambda entry: (entry[0][0], -len(entry[1])))
    rows = [
        f"| `{name}` | {_cell(allowed)}{_usual(name, classes)} | {_classes(classes)} | {_cell(doc)} |"
        for (name, allowed, doc), classes in entries
    ]
    return f"{_GROUPS}" + "\n".join(rows) + f"\n\n{_GENERATED}\n"


def _usual(name: str, classes: list[str]) -> str:
    """The default, where all classes have the same."""
    values = {str(m.options.checks()[name].usual) for m in METHODS.values() if class_name(m) in classes}
    return f"; `{values.pop()}`" if len(values) == 1 else ""


def _classes(names: Iterable[str]) -> str:
    """Names of classes as they may stand in a table."""
    names = [*names]
    return "all" if len(names) == len(METHODS) else ", ".join(f"`{name}`" for name in names)


def state_dict() -> str:
    """The keys of a state dict. Of those of which this file does not say what they are, a method's equations do."""
    scalars, buffers, statistics = _kept_by_methods()
    rows = [f"| `{key}` | {classes} | {meaning} |" for key, classes, meaning in _KEPT]
    kept = {key for key, _, _ in _KEPT}
    rows += [
        f"| `{key}` | {_classes(scalars[key])} | {_SCALARS.get(key, _ELSE)} |"
        for key in sorted(scalars)
        if key not in kept
    ]
    text = _STATE + "\n".join(["| key | classes | meaning |", "|---|---|---|", *rows]) + "\n" + _BUFFERS
    rows = [
        f"| `{key}` | {_classes(classes)} | {_OF_BUFFERS.get(key, _ELSE)} | {_dropped(classes, statistics.get(key, []))} |"
        for key, classes in sorted(buffers.items())
    ]
    head = ["| key | classes | meaning | dropped by `freeze_after` |", "|---|---|---|---|"]
    return text + "\n".join([*head, *rows]) + f"\n{_BASE}\n{_GENERATED}\n"


def _dropped(classes: list[str], names: list[str]) -> str:
    return "yes" if names == classes else _classes(names)


def _kept_by_methods() -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
    """The classes that have a scalar, that have a buffer, and whose buffer serves the estimate alone, by its name."""
    scalars: dict[str, list[str]] = {}
    buffers: dict[str, list[str]] = {}
    statistics: dict[str, list[str]] = {}
    for method in METHODS.values():
        name = class_name(method)
        for options in _variants(method):
            for key in method().scalars(options):
                scalars.setdefault(key, []).append(name)
            for key, buffer in _saved(method().buffers(options)):
                buffers.setdefault(key, []).append(name)
                if buffer.statistic:
                    statistics.setdefault(key, []).append(name)
    return _without_repeats(scalars), _without_repeats(buffers), _without_repeats(statistics)


def _without_repeats(names: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {key: [*dict.fromkeys(classes)] for key, classes in names.items()}


def _saved(buffers: Mapping[str, Buffer]) -> list[tuple[str, Buffer]]:
    return [(name, buffer) for name, buffer in buffers.items() if not buffer.transient]


def _variants(method: type[Method]) -> Iterator[dict[str, Any]]:
    """The options of a method: the defaults, and with those on that bring keys of their own."""
    usual, checks = method.options.defaults(), method.options.checks()
    for given in _ON:
        if given.keys() <= checks.keys() and all(_allowed(checks[key], key, value) for key, value in given.items()):
            yield method().completed(usual | given, class_name(method))


def _allowed(check: Any, name: str, value: Any) -> bool:
    try:
        check.checked(name, value, "option")
    except ValueError:
        return False
    return True
