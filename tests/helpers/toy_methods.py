"""Methods with a direction, and their slow and obvious forms: Mechanic, averages and DoWG over several directions."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import Buffer, DirectedMethod, Documentation
from dadapt_dist.methods.base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from dadapt_dist.methods.directions import SGD, Adam, Lion, TorchDirection
from dadapt_dist.methods.ops import add_, dot, total
from dadapt_dist.options.fields import EPS, LR, MethodOptions, is_fraction, is_positive, number, option

from .registered import registrations_undone

DECAY = 0.01


def words(summary: str) -> Documentation:
    return Documentation(
        summary=summary, when="never: it is a test", reference="A paper, arXiv 0000.00000", equations="x = x"
    )


# ---------------------------------------------------------------- Mechanic, with the sum of its updates kept


@dataclass(frozen=True)
class MechanicOptions(MethodOptions):
    """Options of the Mechanics."""

    lr: float = LR(1.0)
    s_init: float = option(1e-3, number, is_positive, "a number > 0", "use the default, {usual}", "first sum of s")


class Mechanic(DirectedMethod):
    """x = x0 - Σs·Δ, Δ = Σ u; s from h = <g + 0.01·Σs·‖g‖/‖x‖·x, Δ>, six averaging constants (arXiv 2306.00144)."""

    options = MechanicOptions
    documentation = words("Mechanic.")
    before = Sums(("g_delta", "x_delta", "g_sq", "x_sq"), needs="g_sq")
    estimate_options = ("s_init",)

    def scalars(self, options: Options) -> dict[str, Initial]:
        each = options["s_init"] / 6
        return {"s": (each,) * 6, "r": (0.0,) * 6, "m": (0.0,) * 6, "v": (0.0,) * 6}

    def constants(self, options: Options) -> dict[str, float]:
        return {"s_init": float(options["s_init"])}

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param"), "delta": Buffer()}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        delta = buf["delta"]
        return dot(g, delta), dot(x, delta), total(g.square()), total(x.square())

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        beta = 1 - 0.1 ** torch.arange(1, 7, dtype=torch.float64)
        whole = scalars["s"].sum(-1)
        h = sums["g_delta"] + 0.01 * whole * sums["g_sq"].sqrt() / (sums["x_sq"].sqrt() + 1e-8) * sums["x_delta"]
        h = h.unsqueeze(-1)
        m = torch.maximum(beta * scalars["m"], h.abs() + 1e-8)
        v = beta**2 * scalars["v"] + h * h
        r = beta * scalars["r"] + torch.minimum(torch.maximum(h, -scalars["m"]), scalars["m"]) * scalars["s"]
        s = (constants["s_init"].unsqueeze(-1) / 6 * m + r.clamp(min=0)) / (v.sqrt() + 1e-8)
        return {"s": s, "r": r, "m": m, "v": v}

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return scalars["s"].sum() * float(options["lr"])

    def own_coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        return {"whole": scalars["s"].sum(), "lr": float(options["lr"])}

    def move(
        self, x: Tensor, g: Tensor, u: Tensor, buf: Buffers, c: Coefficients, cut: slice | None
    ) -> tuple[Tensor, ...]:
        add_(buf["delta"], u, c["lr"])
        x.copy_(add_(buf["x0"].clone(), buf["delta"], -c["whole"]))
        return ()


class ToyMechanicAdamMethod(Mechanic):
    """Mechanic over Adam."""

    name = "toy_mechanic_adam"
    direction = Adam()


class ToyMechanicTorchMethod(Mechanic):
    """Mechanic over torch's AdamW."""

    name = "toy_mechanic_torch"
    direction = TorchDirection(lambda groups: torch.optim.AdamW(groups, lr=1.0, weight_decay=DECAY))


# ---------------------------------------------------------------- averages over SGD, as of Schedule-Free


@dataclass(frozen=True)
class AveragedOptions(MethodOptions):
    """Options of averaged SGD."""

    lr: float = LR(0.1)
    beta: float = option(0.9, number, is_fraction, "a number in [0, 1)", "use the default, {usual}", "part of x in y")


class AveragedSGDMethod(DirectedMethod):
    """z = z - lr·u(y);  x = (1-c)·x + c·z, c = 1/k;  y = (1-β)·z + β·x; the parameter holds y (arXiv 2405.15682)."""

    name = "averaged_sgd"
    options = AveragedOptions
    documentation = words("Averaged SGD.")
    direction = SGD()
    estimate_options = ()

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        return {"z": Buffer(init="param")}

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return float(options["lr"])

    def own_coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        return {"lr": float(options["lr"]), "beta": options["beta"], "c": 1 / (scalars["updates"] + 1)}

    def move(
        self, x: Tensor, g: Tensor, u: Tensor, buf: Buffers, c: Coefficients, cut: slice | None
    ) -> tuple[Tensor, ...]:
        z, beta = buf["z"], c["beta"]
        average = x.lerp(z, 1 - 1 / beta)
        z.sub_(u * c["lr"])
        average.add_((z - average) * c["c"])
        x.copy_(average.lerp_(z, 1 - beta))
        return ()

    def to_eval(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        x.lerp_(buf["z"], 1 - 1 / c["beta"])

    def to_train(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        x.lerp_(buf["z"], 1 - c["beta"])


# ---------------------------------------------------------------- DoWG


@dataclass(frozen=True)
class DoWGOptions(MethodOptions):
    """Options of DoWG."""

    lr: float = LR(1.0)
    first: float = option(1e-3, number, is_positive, "a number > 0", "use the default, {usual}", "first distance")
    floor: float = EPS(1e-8)


class DoWGLionMethod(DirectedMethod):
    """d = max(d, ‖x - x0‖);  v = v + d²·‖g‖²;  x = x - lr·d²/√(v + floor)·u (arXiv 2305.16284)."""

    name = "dowg_lion"
    options = DoWGOptions
    documentation = words("DoWG over Lion.")
    direction = Lion()
    before = Sums(("dist_sq", "g_sq"), needs="g_sq")
    estimate_options = ("first",)

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": float(options["first"]), "weighted": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param", statistic=True)}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return total((x - buf["x0"]).square()), total(g.square())

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        d = torch.maximum(scalars["d"], sums["dist_sq"].sqrt())
        return {"d": d, "weighted": scalars["weighted"] + d * d * sums["g_sq"]}

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate = options["lr"] * scalars["d"] ** 2 / torch.sqrt(scalars["weighted"] + options["floor"])
        return torch.where(scalars["weighted"] > 0, rate, 0.0)

    def own_coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        return {"rate": self.learning_rate(options, scalars)}

    def move(
        self, x: Tensor, g: Tensor, u: Tensor, buf: Buffers, c: Coefficients, cut: slice | None
    ) -> tuple[Tensor, ...]:
        add_(x, u, -c["rate"])
        return ()


TOYS = {
    method.name: method for method in (ToyMechanicAdamMethod, ToyMechanicTorchMethod, AveragedSGDMethod, DoWGLionMethod)
}


@contextmanager
def toys_registered() -> Iterator[dict[str, Callable[..., dd.LearningRateFree]]]:
    """The optimizer classes of the toys by name, until the end of the block."""
    with registrations_undone():
        yield {name: optimizers.register(method) for name, method in TOYS.items()}


# ---------------------------------------------------------------- the slow and obvious forms: whole vectors, float64


class Reference:
    """One method on one vector. x: what the parameter holds in training. step(g): one step; frozen: d stays."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.k = x.detach().double().clone(), 0

    def step(self, g: Tensor, frozen: bool = False) -> None:
        self.advance(g, frozen)
        self.k += 1

    def advance(self, g: Tensor, frozen: bool) -> None:
        raise NotImplementedError

    def evaluated(self) -> Tensor:
        return self.x

    def estimate(self) -> float:
        """What `effective_lr` shows in the step that was just taken."""
        raise NotImplementedError


class MechanicReference(Reference):
    decay, s_init = DECAY, 1e-3

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.x0, self.delta, self.m, self.v = self.x.clone(), 0 * self.x, 0 * self.x, 0 * self.x
        self.s, self.r, self.largest, self.squares = [self.s_init / 6] * 6, [0.0] * 6, [0.0] * 6, [0.0] * 6

    def advance(self, g: Tensor, frozen: bool) -> None:
        if not frozen:
            h = float(g @ self.delta)
            h += 0.01 * sum(self.s) * float(g.norm()) / (float(self.x.norm()) + 1e-8) * float(self.x @ self.delta)
            for i in range(6):
                beta = 1 - 10.0 ** -(i + 1)
                self.r[i] = beta * self.r[i] + min(max(h, -self.largest[i]), self.largest[i]) * self.s[i]
                self.largest[i] = max(beta * self.largest[i], abs(h) + 1e-8)
                self.squares[i] = beta**2 * self.squares[i] + h * h
                bet = self.s_init / 6 * self.largest[i] + max(0.0, self.r[i])
                self.s[i] = bet / (math.sqrt(self.squares[i]) + 1e-8)
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m_hat, v_hat = self.m / (1 - 0.9 ** (self.k + 1)), self.v / (1 - 0.999 ** (self.k + 1))
        self.delta = self.delta + m_hat / (v_hat.sqrt() + 1e-8) + self.decay * self.x
        self.x = self.x0 - sum(self.s) * self.delta

    def estimate(self) -> float:
        return sum(self.s)


class AveragedReference(Reference):
    decay, lr = 0.0, 0.1

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.z, self.average = self.x.clone(), self.x.clone()

    def advance(self, g: Tensor, frozen: bool) -> None:
        self.z = self.z - self.lr * (g + self.decay * self.x)
        self.average = (1 - 1 / (self.k + 1)) * self.average + 1 / (self.k + 1) * self.z
        self.x = 0.1 * self.z + 0.9 * self.average

    def evaluated(self) -> Tensor:
        return self.average

    def estimate(self) -> float:
        return self.lr


class DoWGLionReference(Reference):
    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.x0, self.d, self.weighted, self.m = self.x.clone(), 1e-3, 0.0, 0 * self.x

    def advance(self, g: Tensor, frozen: bool) -> None:
        if not frozen:
            self.d = max(self.d, float((self.x - self.x0).norm()))
            self.weighted += self.d**2 * float(g @ g)
        u = (0.9 * self.m + 0.1 * g).sign()
        self.m = 0.99 * self.m + 0.01 * g
        self.x = self.x - self.estimate() * u

    def estimate(self) -> float:
        return self.d**2 / math.sqrt(self.weighted + 1e-8) if self.weighted > 0 else 0.0


REFERENCES: dict[str, type[Reference]] = {
    "toy_mechanic_adam": MechanicReference,
    "toy_mechanic_torch": MechanicReference,
    "averaged_sgd": AveragedReference,
    "dowg_lion": DoWGLionReference,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "toy_mechanic_adam": {"weight_decay": DECAY},
    "toy_mechanic_torch": {},
    "averaged_sgd": {},
    "dowg_lion": {},
}
