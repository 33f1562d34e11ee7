"""Methods that scale the update of a direction (SGD, Adam, Lion, any torch optimizer) instead of having one of their own."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from inspect import isabstract
from typing import Any, ClassVar

from torch import Tensor

from ..options.fields import MethodOptions
from .base import Buffer, Buffers, Coefficients, Method, Options, Scalars
from .directions.base import Direction

_OF_DIRECTION = "direction."


class DirectedMethod(Method):
    """A method whose weights move along the update u of a direction: how far, and from where, is the method's.

    A subclass names a `direction` and defines `own_buffers`, `own_coefficients` and `move` in the place of `buffers`,
    `coefficients` and `update`; sums, folds and all the rest are as of any `Method`. The options, buffers and coefficients of
    the direction are joined to its own: they stand in the public signature, are sharded, saved and rounded as all others are.
    Coefficients cannot collide, since each part sees its own alone; options and buffers must not.

    Raises:
        TypeError: when the class is defined: an option or a buffer of the direction has the name of one of the method's, or a
            buffer of it is a statistic or sliced.

    Example:
        >>> from dadapt_dist.methods.directed import DirectedMethod
        >>> from dadapt_dist.methods.directions import Adam
        >>> class Scaled(DirectedMethod):  # register() asks for name, options and documentation too
        ...     direction = Adam()
        ...     def own_buffers(self, options):
        ...         return {}
        ...     def own_coefficients(self, options, scalars, constants):
        ...         return {"rate": scalars["d"] * options["lr"] * options["layer_scale"]}
        ...     def move(self, x, g, u, buf, c, cut):
        ...         x.sub_(u * c["rate"])
        ...         return ()
    """

    direction: ClassVar[Direction]
    own_options: ClassVar[type[MethodOptions]]
    """The options without those of the direction."""
    counts_updates = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "options" in vars(cls):
            cls.own_options = cls.options
        if getattr(cls, "direction", None) is not None and hasattr(cls, "own_options"):
            cls.options = _joined_options(cls, cls.own_options, cls.direction)
            cls.runs_base = cls.direction.factory is not None
            cls.read_only = tuple(dict.fromkeys((*cls.read_only, *cls.direction.read_only)))
            if not isabstract(cls):
                cls().buffers(cls.options.defaults())

    # ---------------------------------------------------------------- what a method defines

    @abstractmethod
    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        """As `buffers`, without those of the direction."""

    @abstractmethod
    def own_coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        """As `coefficients`, without those of the direction. scalars["updates"]: the steps before this one."""

    @abstractmethod
    def move(
        self, x: Tensor, g: Tensor, u: Tensor, buf: Buffers, c: Coefficients, cut: slice | None
    ) -> tuple[Tensor, ...]:
        """Advance x and the method's buffers in place along u; return the terms of the `after` sums, as `update` does.

        u: the direction's update, shaped like x. It may be g or a buffer itself: neither it nor g may be written.
        """

    def tried(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        """The u of the coming step, which writes nothing: for `measure_before`, where `measures_update` says so.

        The arguments are those of `measure_before`.
        """
        return self.direction.update(x, g, {name: t.clone() for name, t in buf.items()}, _of_direction(c))

    # ---------------------------------------------------------------- what the caller sees

    def buffers(self, options: Options) -> dict[str, Buffer]:
        own, others = self.own_buffers(options), self.direction.buffers(options)
        _check_buffers(type(self), own, others)
        return own | others

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        own = self.own_coefficients(options, scalars, constants)
        others = self.direction.coefficients(options, scalars)
        return own | {f"{_OF_DIRECTION}{name}": value for name, value in others.items()}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        return self.move(x, g, self.direction.update(x, g, buf, _of_direction(c)), buf, c, cut)

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        of_direction = self.direction.squared(g, before, after, _of_direction(c))
        return (*super().squared(g, before, after, c), *of_direction)

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (*super().multiplied(x, buf, c), *self.direction.multiplied(x, buf, _of_direction(c)))


def _of_direction(c: Coefficients) -> Coefficients:
    start = len(_OF_DIRECTION)
    return {name[start:]: value for name, value in c.items() if name.startswith(_OF_DIRECTION)}


def _joined_options(cls: type, own: type[MethodOptions], direction: Direction) -> type[MethodOptions]:
    """The options of the method, in order, then those of its direction."""
    if not isinstance(direction, Direction):
        raise TypeError(f"{cls.__name__}.direction={direction!r} must be an instance of a Direction, such as Adam()")
    both = {f.name for f in fields(own)} & {f.name for f in fields(direction.options)}
    if both:
        raise TypeError(
            f"{cls.__name__}: the method and its direction {type(direction).__name__} both have the options "
            f"{', '.join(sorted(both))}. Rename the method's."
        )
    if not fields(direction.options):
        return own
    joined = make_dataclass(own.__name__, [], bases=(direction.options, own), frozen=True)
    joined.__module__, joined.__doc__ = cls.__module__, own.__doc__
    return joined


def _check_buffers(cls: type, own: dict[str, Buffer], others: dict[str, Buffer]) -> None:
    both = own.keys() & others.keys()
    if both:
        raise TypeError(
            f"{cls.__name__}: the method and its direction both have the buffers {', '.join(sorted(both))}. Rename the method's."
        )
    wrong = [name for name, spec in others.items() if spec.statistic or spec.sliced]
    if wrong:
        raise TypeError(
            f"{cls.__name__}: {', '.join(wrong)} of its direction is a statistic or sliced, but a direction needs every element "
            "of its buffers for as long as the weights move. Keep it as a buffer of the method."
        )
