"""The options with which each oracle is compared with its released package."""

import math
from typing import Any

# Prodigy: so small that its scaling by d_k (paper) or d_{k+1} (released) cannot be seen.
PAPER_EPS = {"eps": 1e-20}

HALF_AT_LR_ZERO: list[dict[str, Any]] = [{"indices": [0, 3]}, {"indices": [2, 1], "lr": 0.0}]
ZERO_LR_PART = slice(12, 31)  # the places of tensors 1 and 2 in the flat vector
WARMUP_COSINE = [min(1.0, (k + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * k / 200)) for k in range(200)]
WARMUP_FROM_ZERO = [min(1.0, max(0, k - 2) / 20) for k in range(200)]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("prodigy", {}),
    ("prodigy", {"betas": (0.8, 0.95), "lr": 0.5}),
    ("prodigy", {"beta3": 0.9}),
    ("prodigy", {"use_bias_correction": True}),
    ("prodigy", {"safeguard_warmup": True, "lr": 0.8}),
    ("prodigy", {"weight_decay": 0.1}),
    ("prodigy", {"weight_decay": 0.1, "decouple": False}),
    ("prodigy", {"d_coef": 2.0, "d0": 1e-4}),
    ("prodigy", {"growth_rate": 1.08}),
    ("prodigy", {"slice_p": 3}),
    ("prodigy", {"slice_p": 4, "betas": (0.8, 0.99), "beta3": 0.95, "weight_decay": 0.01, "d_coef": 0.5}),
    ("dadapt_adam", {}),
    ("dadapt_adam", {"betas": (0.8, 0.95), "eps": 1e-3, "lr": 0.5, "d0": 1e-4}),
    ("dadapt_adam", {"use_bias_correction": True}),
    ("dadapt_adam", {"weight_decay": 0.1}),
    ("dadapt_adam", {"weight_decay": 0.1, "decouple": True, "use_bias_correction": True}),
    ("dadapt_adam", {"growth_rate": 1.08}),
    ("dadapt_sgd", {}),
    ("dadapt_sgd", {"momentum": 0.9, "lr": 0.5}),
    ("dadapt_sgd", {"growth_rate": 1.1, "d0": 1e-4}),
    ("dadapt_adagrad", {}),
    ("dadapt_adagrad", {"momentum": 0.9}),
    ("dadapt_adagrad", {"weight_decay": 0.1, "eps": 1e-2}),
    ("dadapt_adagrad", {"growth_rate": 1.1, "d0": 1e-4, "lr": 0.7}),
    ("dadapt_adan", {}),
    ("dadapt_adan", {"no_prox": True, "weight_decay": 0.01}),
    ("dadapt_adan", {"betas": (0.9, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0, "lr": 0.5, "d0": 1e-4}),
    ("dadapt_adan", {"growth_rate": 1.08}),
    ("dadapt_lion", {}),
    ("dadapt_lion", {"betas": (0.8, 0.95), "lr": 0.5, "d0": 1e-4}),
    ("dadapt_lion", {"weight_decay": 0.01}),
]


def with_eps(key: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(PAPER_EPS if key == "prodigy" else {}), **(options or {})}
