"""Make the public optimizer class of a method from its options and its documentation."""

import inspect
import itertools
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..kernels import Backend
from ..methods import Method
from ..methods.base import Dtypes, Variant
from ..methods.registry import class_name
from ..options.checks import Before, NonFinite, Separate, Sync, check_keywords
from .named_step_sizes import named
from .optimizer import LearningRateFree
from .state.param_state import dtype_named
from .step_size import StepSize

logger = logging.getLogger(__name__)
MODULE = "dadapt_dist.optimizers"
_said: set[str] = set()
NOTATION = """\
γ = d·lr (with Adam's bias correction where it is on) unless stated, r = layer_scale, wd = weight_decay; Σ runs over
all elements of all ranks. The update uses the d of before the step."""


def _documented(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Common:
    """Keywords that every optimizer takes and no parameter group holds."""

    state_dtype: torch.dtype | None = _documented(
        None,
        "dtype of the buffers: torch.float32, torch.bfloat16 or torch.float64. None: float32, or the parameter's where "
        "that is more precise",
    )
    statistics_dtype: torch.dtype | None = _documented(
        None, "dtype of s alone; torch.bfloat16, with stochastic rounding, saves memory and hardly changes d"
    )
    backend: Backend = _documented("auto", "kernel that runs the step: 'auto' (the fastest), 'c', 'triton' or 'eager'")
    freeze_after: int | None = _documented(
        None,
        "number of steps >= 1 after which d stays, the buffers of the estimate are released and, but for "
        "nonfinite='skip' and 'raise', nothing is reduced",
    )
    nonfinite: NonFinite | None = _documented(
        None,
        "what a NaN or infinite gradient does: 'hold' (its element counts as 0, d stays), 'skip' or 'raise'. None: "
        "'hold', but what a GradScaler finds to overflow is skipped",
    )
    sync: Sync = _documented(
        "next_step", "when a step waits for its reduce: in the 'next_step' (hidden) or in the 'step'"
    )
    before: Before = _documented(
        "exact",
        "when sums that a method takes before the weights move count: in the step itself, by a blocking reduce "
        "('exact'), or in the next step, hidden ('lagged'). The others take none",
    )
    grad_norms: bool = _documented(
        False,
        "whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for `log_values`, `optimizer.grad_norms` and `dadapt-dist "
        "refine-schedule`",
    )
    clip_norm: float | None = _documented(
        None,
        "norm that the gradients of all parameters over all ranks are clipped to, as by torch's clip_grad_norm_; costs a "
        "blocking reduce of one number a step, or none where the norm rides in that of sums before the weights move (not of "
        "NGN, of MoMoAdam, nor of Mechanic around anything but SGD). None: they are taken as they are",
    )
    estimates: Separate = _documented(
        None,
        "'per_tensor': a d for each tensor, under its name; or a list of the names that groups choose from. None: one d, or "
        "those that the groups name",
    )
    process_group: Any = _documented(None, "ranks that train together. None: all")
    copies: Callable[[Tensor], int | None] | None = _documented(
        None, "for plain tensors that hold a slice: returns how many ranks hold the same elements"
    )
    step_size: StepSize | str | None = _documented(
        None,
        "a StepSize shared with other optimizers, or a name: all optimizers of the process that give it share one. "
        "freeze_after, nonfinite, sync, before, grad_norms, clip_norm, estimates, process_group and copies then belong to it",
    )


# The keywords that go on to a StepSize of the optimizer's own. Their defaults are those of StepSize.
_STEP_SIZE_OPTIONS = tuple(
    option.name for option in fields(Common) if option.name in inspect.signature(StepSize).parameters
)


def make_class(method: type[Method], variant: Variant | None = None) -> type[LearningRateFree]:
    """Return the optimizer class of a method, or of a variant of it, as it stands in `dadapt_dist.optimizers`."""
    name, signature = class_name(method) if variant is None else variant.name, signature_of(method, variant)

    def __init__(self: LearningRateFree, *args: Any, **kwargs: Any) -> None:
        _build(self, method, signature, args, kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])  # type: ignore[attr-defined]
    __init__.__qualname__, __init__.__module__ = f"{name}.__init__", MODULE
    return type(name, (LearningRateFree,), {
        "__init__": __init__, "__doc__": docstring_of(method, variant), "__module__": MODULE, "__qualname__": name,
    })  # fmt: skip


def signature_of(method: type[Method], variant: Variant | None = None) -> inspect.Signature:
    """The signature of a method's constructor: params, its own options in order, then keywords that all methods take."""
    return signature_with("params", method.options.of_constructor(), variant)


def signature_with(first: str, options: Iterable[Field[Any]], variant: Variant | None = None) -> inspect.Signature:
    """The signature of a constructor: what it takes first, options, then keywords that all optimizers take."""
    parameters = [inspect.Parameter(first, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Any)]
    parameters += [_parameter(option, variant) for option in (*options, *fields(Common))]
    return inspect.Signature(parameters, return_annotation=None)


def _parameter(option: Field[Any], variant: Variant | None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if option.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(option.name, kind, default=_default(option, variant), annotation=option.type)


def _default(option: Field[Any], variant: Variant | None) -> Any:
    return variant.estimates if variant is not None and option.name == "estimates" else option.default


def docstring_of(method: type[Method], variant: Variant | None = None) -> str:
    """The docstring of a method's class, or of a variant's: one line, equations, Args, Raises, Example, References."""
    return "\n".join(_docstring_lines(method, variant)).rstrip() + "\n"


def _docstring_lines(method: type[Method], variant: Variant | None) -> Iterator[str]:
    words = method.documentation if variant is None else variant.documentation
    name = class_name(method) if variant is None else variant.name
    yield from (words.summary, "")
    yield from (f"    {line}".rstrip() for line in paragraph(words.equations))
    yield from ("", *([*paragraph(words.notes), ""] if words.notes else []))
    yield from (NOTATION, "", "Args:")
    yield from _argument("params", "tensors, (name, tensor) pairs, or dicts of parameter groups")
    yield from arguments_documented(method.options.of_constructor(), variant)
    yield from ("", "Raises:")
    yield from _argument("ValueError", "an option is out of its range; nothing is built")
    yield from _argument("TypeError", "a keyword is unknown; the message names the nearest")
    example = _EXAMPLE.format(name=name, loss="loss=loss" if method.wants_loss else "")
    yield from ("", "Example:", *(f"    {line}" for line in example.splitlines()), "", "References:")
    yield from textwrap.wrap(f"{words.reference}.", 100, initial_indent="    ", subsequent_indent="    ")


def arguments_documented(options: Iterable[Field[Any]], variant: Variant | None = None) -> Iterator[str]:
    """The lines of Args for these options and the keywords that all optimizers take."""
    for option in (*options, *fields(Common)):
        yield from _argument(option.name, _text_of(option, variant))


_EXAMPLE = """\
>>> import torch, dadapt_dist.optimizers
>>> model = torch.nn.Linear(4, 1)
>>> optimizer = dadapt_dist.optimizers.{name}(model.parameters(), lr=1.0)
>>> for _ in range(3):
...     loss = model(torch.ones(8, 4)).square().mean()
...     optimizer.zero_grad()
...     loss.backward()
...     optimizer.step({loss})
>>> optimizer.step_size.steps
3"""


def paragraph(text: str) -> list[str]:
    """The lines of an indented text."""
    return textwrap.dedent(text).strip("\n").rstrip().splitlines()


def _text_of(option: Field[Any], variant: Variant | None) -> str:
    check = option.metadata.get("check")
    if check is None:
        return f"{option.metadata['doc']}. Default {_default(option, variant)!r}"
    return f"{check.doc}. {check.allowed[0].upper()}{check.allowed[1:]}; default {option.default!r}"


def _argument(name: str, text: str) -> list[str]:
    return textwrap.wrap(f"{name}: {text}.", 100, initial_indent="    ", subsequent_indent="        ")


def _build(
    optimizer: LearningRateFree,
    method: type[Method],
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Call LearningRateFree's constructor with options and StepSize sorted out."""
    given = read_arguments(signature, args, kwargs, type(optimizer).__name__)
    if given.get("fsdp_in_use", False) and "fsdp_in_use" not in _said:
        _said.add("fsdp_in_use")
        logger.info("fsdp_in_use is accepted and not needed: sharding is read from the parameters")
    construct(optimizer, given["params"], method.name, method, given, signature.parameters["estimates"].default)


def read_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
) -> dict[str, Any]:
    """The arguments of a constructor by name, with the defaults of those that were left out. TypeError for unknown ones."""
    known = signature.parameters.keys()
    check_keywords(kwargs.keys() - known, known - {*itertools.islice(known, 1)}, where)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    bound.apply_defaults()
    return bound.arguments


def construct(
    optimizer: LearningRateFree,
    params: Any,
    method: str | Method,
    cls: type[Method],
    given: dict[str, Any],
    usual_estimates: Any = None,
) -> None:
    """Call LearningRateFree's constructor. given: arguments by name, options of the method and keywords of all methods."""
    LearningRateFree.__init__(
        optimizer,
        params,
        method=method,
        options={name: given[name] for name in cls.options.checks() if name in given},
        step_size=_step_size(given, type(optimizer).__name__, usual_estimates),
        dtypes=Dtypes(*(dtype_named(given[name]) for name in ("state_dtype", "statistics_dtype"))),
        backend=given["backend"],
    )


def _step_size(given: dict[str, Any], where: str, estimates: Any) -> StepSize:
    """The StepSize that the optimizer shares, or one of its own. estimates: what the class has by default."""
    shared, usual = given["step_size"], {option.name: option.default for option in fields(Common)}
    own = {name: given[name] for name in _STEP_SIZE_OPTIONS if not _is(given[name], usual[name])}
    if isinstance(shared, str):
        return named(shared, own, where)
    if shared is None:
        return StepSize(**own)
    if not isinstance(shared, StepSize):
        raise TypeError(
            f"{where}: step_size={shared!r} is no StepSize. Pass StepSize(...) or a name, or leave it out: the optimizer then "
            "makes its own."
        )
    if estimates is not None and own.get("estimates") is estimates:
        del own["estimates"]
        if not shared._per_tensor:
            raise ValueError(
                f"{where} has an estimate for each tensor, and the StepSize that it is given has not: make that one with "
                f"StepSize({estimates!r})."
            )
    if own:
        raise ValueError(f"{where}: the StepSize holds {', '.join(own)}; pass them to StepSize(...) instead")
    return shared


def _is(value: Any, usual: Any) -> bool:
    """Whether a value is the default, None or a word; it may be an array, which compares element by element."""
    return value is usual or (isinstance(value, str) and value == usual)
