"""What is a parameter group here? A dict whose scalars (d, ...) are current whenever they are read."""

import math
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

from ..options.checks import assigned
from ..options.fields import Check
from ..options.plain_values import NOTHING, number
from .state.validation import scalar

if TYPE_CHECKING:
    from .step_size import StepSize


class LiveGroup(dict[str, Any]):
    """A parameter group. `group["d"]` waits for the reduce under way and returns d as a float; setting it sets d.

    Reading is the one moment at which the host waits for the device, and only the reader pays it. Copies and pickles are
    plain dicts: frameworks deep-copy and pickle groups, and a StepSize holds a process group, which cannot be.
    """

    __slots__ = ("_checks", "_live", "_step_size")

    def __init__(
        self, group: dict[str, Any], step_size: "StepSize", live: frozenset[str], checks: Mapping[str, Check]
    ) -> None:
        """checks: those of the method's options; any other key is the user's own, whatever its name."""
        self._checks = checks
        super().__init__((key, assigned(key, value, self._checks, "a parameter group")) for key, value in group.items())
        self._step_size = step_size
        self._live = live

    def is_of(self, step_size: "StepSize") -> bool:
        """Are the scalars those of this step size?"""
        return self._step_size is step_size

    def __getitem__(self, key: str) -> Any:
        if key in self._live:
            return self._step_size.value(super().__getitem__("estimate"), key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "d" and key not in self._live:
            raise ValueError(
                f"d={value!r} cannot be set: {self._step_size.scalars.method.name} has no d. Set lr, which shapes its steps."
            )
        if key not in self._live:
            super().__setitem__(key, assigned(key, value, self._checks, "a parameter group"))
        elif key == "steps":
            self._step_size.restore(int(scalar(key, value, "parameter group")))
        else:
            if key == "d" and ((read := number(value)) is NOTHING or not 0 < read < math.inf):
                raise ValueError(f"d={value!r} must be a number > 0. {self._step_size.scalars.cure_of_d()}")
            self._step_size.set_value(super().__getitem__("estimate"), key, scalar(key, value, "parameter group"))

    def update(self, *others: Any, **options: Any) -> None:
        """As a dict's, so that a scalar given this way is set like one assigned."""
        for key, value in dict(*others, **options).items():
            self[key] = value

    def __ior__(self, other: Any) -> "LiveGroup":  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def rebind(self, views: dict[str, Any], live: frozenset[str]) -> None:
        """Store new views of the scalars; schedulers and frameworks may hold this very dict, so it is not replaced."""
        self._live = live
        super().update(views)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - dict.get would not be current

    # dict's own copies go around __getitem__ unless __iter__ is overridden; dict(group) and {**group} would hold tensors.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self.plain().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self.plain().items()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.plain(),)

    def __copy__(self) -> dict[str, Any]:
        return self.plain()

    def copy(self) -> dict[str, Any]:
        return self.plain()

    def plain(self) -> dict[str, Any]:
        """A plain dict with the scalars as python numbers."""
        return {key: self[key] for key in self}
