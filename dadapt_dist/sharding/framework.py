"""The one interface between this package and a training framework, with a null default for each hook."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .shard import LocalShard

Groups = Sequence[dict[str, Any]]
NamedTensors = list[tuple[str | None, Tensor]]
Placed = Sequence[LocalShard | list[LocalShard] | None]


class FrameworkAdapter:
    """What a framework does to parameters and steps. This default: nothing; one call of step() brings a whole step.

    One instance of a subclass is registered (`registry.register`) and asked about parameters and optimizers. For an optimizer
    that the framework holds, `bind` returns an adapter that describes how its steps come; every other optimizer has this default.
    An adapter imports its framework only where the program has imported it already.
    """

    name = "framework"
    module: str | None = None
    """The module of the framework without which `on_construction` has nothing to do; None: it is never called."""

    # ---------------------------------------------------------------- asked of the registered instance

    def place(self, params: Sequence[Tensor]) -> Placed:
        """Say where each parameter lives: None for one that is not this framework's, a list for a tensor that packs several.

        Raises:
            ValueError: A parameter is this framework's and cannot be placed; the text names the cure.
        """
        return [None] * len(params)

    def refuse(self, params: Sequence[Tensor]) -> None:
        """Raise ValueError for what cannot work with these parameters, before this rank waits for any other."""

    def bind(self, optimizer: Optimizer) -> "FrameworkAdapter | None":
        """Return the adapter of an optimizer that this framework holds, else None.

        Raises:
            ValueError: The framework is set to do what cannot work with the optimizer.
        """
        return None

    def on_construction(self, cls: type[Optimizer]) -> None:
        """Take note that an optimizer of this class is being built, while `module` is imported.

        Raises:
            ValueError: The framework would replace or misuse it.
        """

    def unscales_itself(self, optimizer: Optimizer) -> bool:
        """Whether the framework's trainer unscales gradients itself, and must not be told that the optimizer does."""
        return False

    def parts_of(self, thing: Any) -> Iterable[Any]:
        """The objects inside `thing`, given to `dadapt_dist.attach`, that this adapter looks for among the live ones."""
        return ()

    def tensor_parallel_ranks(self, params: Sequence[Tensor]) -> Sequence[int]:
        """The ranks of the whole world that hold one replica of the model together by tensor parallelism, this one among them.

        They see one batch. None where there are no others, or it is not certain.
        """
        return ()

    def forget_copies(self, params: Sequence[Tensor]) -> None:
        """Drop what the framework still holds of the values that these parameters had: they were changed between two steps."""

    # ---------------------------------------------------------------- asked of the bound adapter

    in_pieces = False
    """Whether step() is called several times for one step, each time with some of the tensors."""
    replaces_parameters = False
    """Whether the framework gives the optimizer tensors of its own, made from the model's parameters."""
    nonfinite_advice = ""
    """What to use where nonfinite="skip" or "raise" would need a step whole, and it comes in pieces."""
    rebuild_advice = "Build a new optimizer, and load a checkpoint."
    """What to do about an optimizer that had taken steps before the framework replaced its tensors."""

    def is_over(self) -> bool:
        """Whether what brought the steps is gone."""
        return False

    def is_initialising(self) -> bool:
        """Whether the framework is still setting up: it may call step() with zero gradients, and nothing may move."""
        return False

    def tensors(self, groups: Groups) -> list[NamedTensors]:
        """For each group, (name or None, tensor) of all that a step moves, also of what the present call does not show."""
        named = []
        for group in groups:
            names = group.get("param_names") or ()
            if len(names) != len(group["params"]):  # none were given, or parameters were added without
                names = [None] * len(group["params"])
            named.append(list(zip(names, group["params"], strict=True)))
        return named

    def check_masters(self) -> None:
        """Raise ValueError where `masters_to_model` cannot be done; the text names the cure."""

    def masters_to_model(self) -> None:
        """Let the model have the optimizer's tensors as they are now, of which it has copies: they were changed between steps."""

    def was_loaded(self, groups: Groups) -> bool:
        """Whether the framework has put a checkpoint into these groups by itself, without load_state_dict."""
        return False

    def after_external_load(self, optimizer: Any) -> None:
        """Complete a checkpoint that the framework has put into state and groups by itself.

        Raises:
            ValueError: The checkpoint is another method's, or did not come whole; the text names what is missing.
        """


NO_FRAMEWORK = FrameworkAdapter()
