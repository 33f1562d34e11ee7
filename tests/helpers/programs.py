"""How programs that choose their optimizer by name call it: kohya sd-scripts, ai-toolkit, diffusers' scripts, OneTrainer.

Each function makes the import and the call that the program's own code makes, with the keywords that it gives; nothing else of
the program is here.
"""

import ast
import importlib
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

KOHYA_DADAPT = {  # in lower case -> (module, class)
    "dadaptation": ("dadaptation.experimental", "DAdaptAdamPreprint"),
    "dadaptadampreprint": ("dadaptation.experimental", "DAdaptAdamPreprint"),
    "dadaptadagrad": ("dadaptation", "DAdaptAdaGrad"),
    "dadaptadam": ("dadaptation", "DAdaptAdam"),
    "dadaptadan": ("dadaptation", "DAdaptAdan"),
    "dadaptadanip": ("dadaptation.experimental", "DAdaptAdanIP"),
    "dadaptlion": ("dadaptation", "DAdaptLion"),
    "dadaptsgd": ("dadaptation", "DAdaptSGD"),
}


def kohya(optimizer_type: str, optimizer_args: Sequence[str], params: Any, lr: float) -> tuple[str, Optimizer]:
    """What sd-scripts writes into the metadata, and the optimizer, for --optimizer_type and --optimizer_args.

    Raises ValueError for another name that begins with "dadapt".
    """
    options = {key: ast.literal_eval(value) for key, value in (arg.split("=") for arg in optimizer_args)}
    lower = optimizer_type.lower()
    if lower.startswith("dadapt"):
        import dadaptation
        import dadaptation.experimental  # noqa: F401

        if lower not in KOHYA_DADAPT:
            raise ValueError(f"Unknown optimizer type: {optimizer_type}")
        module, name = KOHYA_DADAPT[lower]
    elif lower == "prodigy":
        module, name = "prodigyopt", "Prodigy"
    else:
        *folders, name = optimizer_type.split(".")
        module = ".".join(folders)
    cls = getattr(importlib.import_module(module), name)
    return f"{cls.__module__}.{cls.__name__}", cls(params, lr=lr, **options)


def kohya_logs(optimizer: Optimizer) -> list[float]:
    """d·lr of each group, as sd-scripts logs it."""
    return [group["d"] * group["lr"] for group in optimizer.param_groups]


def ai_toolkit(optimizer_type: str, learning_rate: float, optimizer_params: dict[str, Any], params: Any) -> Optimizer:
    """The optimizer of ai-toolkit for `optimizer: prodigy` or `dadaptation`."""
    lr = 1.0 if learning_rate < 0.1 else learning_rate
    if optimizer_type.lower() == "dadaptation":
        import dadaptation

        return dadaptation.DAdaptAdam(params, eps=1e-6, lr=lr, **optimizer_params)
    from prodigyopt import Prodigy

    return Prodigy(params, lr=lr, eps=1e-6, **optimizer_params)


def diffusers(params: Any) -> Optimizer:
    """The optimizer of diffusers' scripts for `--optimizer prodigy`, with the values of their arguments."""
    import prodigyopt

    return prodigyopt.Prodigy(
        params,
        betas=(0.9, 0.999),
        beta3=None,
        weight_decay=1e-4,
        eps=1e-08,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def onetrainer(name: str, params: Any) -> Optimizer:
    """The optimizer of OneTrainer: it passes every option by its name."""
    if name == "PRODIGY":
        import prodigyopt

        return prodigyopt.Prodigy(
            params=params, lr=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0, decouple=True,
            use_bias_correction=False, safeguard_warmup=False, d0=1e-6, d_coef=1.0, growth_rate=float("inf"),
            fsdp_in_use=False, slice_p=11,
        )  # fmt: skip
    import dadaptation as da

    if name == "DADAPT_LION":
        return da.DAdaptLion(
            params=params, lr=1.0, betas=(0.9, 0.999), weight_decay=0.0, log_every=0, d0=1e-6, fsdp_in_use=False
        )
    return da.DAdaptAdaGrad(
        params=params, lr=1.0, momentum=0, log_every=0, weight_decay=0.0, eps=1e-6, d0=1e-6, growth_rate=float("inf")
    )
