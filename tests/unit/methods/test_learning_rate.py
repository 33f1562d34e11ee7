"""Compare `effective_lr` with the rate of the step that is taken: one step from a fresh optimizer."""

from typing import Any

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.classes import WITH_LOSS

# Of a first step with gradient g, by the underlying method at a rate of 1: what x moves by.
SIGN = "sign"  # Lion
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "prodigy": (dd.Prodigy, {"betas": (0.0, 0.5)}, lambda g: g / (0.5 * g * g).sqrt()),
    "dadapt_adam": (dd.DAdaptAdam, {"betas": (0.0, 0.5)}, lambda g: g / (0.5 * g * g).sqrt()),
    "dadapt_sgd": (dd.DAdaptSGD, {}, lambda g: g),
    "dadapt_adagrad": (dd.DAdaptAdaGrad, {}, lambda g: g / (g * g + 1e-6).sqrt()),
    "dadapt_adan": (dd.DAdaptAdan, {"betas": (0.0, 0.0, 0.5), "weight_decay": 0.0}, lambda g: g / (0.5 * g * g).sqrt()),
    "dadapt_lion": (dd.DAdaptLion, {}, lambda g: g.sign()),
    "dog": (dd.DoG, {"reps_rel": 1e-3}, lambda g: g),
    "ngn": (dd.optimizers.NGN, {"betas": (0.0, 0.5), "eps": 1e-30}, lambda g: g.sign()),
    "momo": (dd.optimizers.MoMo, {}, lambda g: g),
    "momo_adam": (dd.optimizers.MoMoAdam, {"betas": (0.9, 0.5), "eps": 1e-30, "cap": 3.0}, lambda g: g.sign()),
}


@pytest.mark.parametrize("method", CASES)
def test_the_effective_lr_is_that_of_the_step(method: str) -> None:
    cls, options, underlying = CASES[method]
    p = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    g = torch.linspace(3, 5, 7, dtype=torch.float64)
    optimizer = cls(
        [p],
        lr=0.25,
        layer_scale=2.0,
        **(
            {}
            if method in ("dog", *WITH_LOSS)
            else {"d0": 1e-2, "eps": 1e-30}
            if method not in ("dadapt_sgd", "dadapt_lion")
            else {"d0": 1e-2}
        ),
        **options,
    )
    rate: list[float] = []

    # d and ‖g0‖ are those of the step when its weights have moved and its sums are still to be folded.
    fold = type(optimizer._method).fold_after

    def spy(self: Any, sums: Any, scalars: Any, constants: Any) -> Any:
        row = {name: value[0] for name, value in scalars.items()}
        rate.append(float(self.learning_rate(optimizer.param_groups[0], row)))
        return fold(self, sums, scalars, constants)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(optimizer._method), "fold_after", spy)
        was, p.grad = p.detach().clone(), g.clone()
        optimizer.step()
    found = rate[0] if rate else optimizer.effective_lr[0]
    assert found > 0
    torch.testing.assert_close(was - p.detach(), found * underlying(g), rtol=1e-9, atol=0)


def test_a_method_without_a_rate_says_so() -> None:
    rate = dd.COCOB([torch.nn.Parameter(torch.ones(2))]).effective_lr[0]
    assert rate != rate
