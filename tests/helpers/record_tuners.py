"""Record what released Mechanic and TRAC give, so that the tests need none of their packages.

    pip install --target OPTAX optax==0.2.8
    pip install --target TORCH --no-deps mechanic-pytorch==0.0.1 trac-optimizer==0.0.2
    PYTHONPATH=OPTAX python -m tests.helpers.record_tuners optax
    PYTHONPATH=TORCH:. python -m tests.helpers.record_tuners torch

Each writes its cases into tests/recorded/tuners.json. OPTAX needs no torch, TORCH none but the one that is installed.
"""

import json
import math
import os
import sys
from typing import Any

from tests.helpers.tuner_problem import DECAY, EVERY, RECORDED, START, STEPS, gradient, lr

Run = dict[str, Any]


def of_optax() -> dict[str, Run]:
    import jax  # type: ignore[import-not-found]
    import optax  # type: ignore[import-not-found]

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy

    def rate(count: Any) -> Any:
        step = jnp.asarray(count, dtype=jnp.float64)  # else in float32
        return jnp.minimum(1.0, (step + 1) / 10) * (1 - step / 100)

    bases = {
        "optax sgd": optax.sgd(rate, momentum=0.9),
        "optax adam": optax.adamw(rate, weight_decay=DECAY),
        "optax lion": optax.lion(rate, weight_decay=DECAY),
    }
    found = {}
    for name, base in bases.items():
        tuner = optax.contrib.mechanize(base)
        x = jnp.array(START, dtype=jnp.float64)
        state, scales = tuner.init(x), []
        for step in range(STEPS):
            update, state = tuner.update(jnp.array(gradient(step, x.tolist()), dtype=jnp.float64), state, x)
            x = optax.apply_updates(x, update)
            scales.append(float(state.s.sum()))
        found[name] = {"s": scales[EVERY - 1 :: EVERY], "x": x.tolist()}
    return found


def of_torch() -> dict[str, Run]:
    import torch

    torch.set_default_dtype(torch.float64)  # before the packages, which make constants of it
    from mechanic_pytorch import mechanize  # type: ignore[import-not-found]
    from trac_optimizer import start_trac, trac  # type: ignore[import-not-found]

    sgd, adam = (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"weight_decay": DECAY})
    tuned = {}
    for name, (base, options) in {"sgd": sgd, "adam": adam}.items():
        for stores in (False, True):
            key = f"authors {name}{' summed' if stores else ''}"
            tuned[key] = (mechanize(base, store_delta=stores), options, "_mechanic")
    for key in ("trac adam", "trac adam as released"):
        tuned[key] = (start_trac(os.devnull, adam[0]), adam[1], "_trac")
    found, erfi = {}, trac.erfi
    for key, (cls, options, of_tuner) in tuned.items():
        # The released erfi is too small by 1.05 % near 0, whatever the precision.
        trac.erfi = erfi if "released" in key else lambda x: x.clone().apply_(exact_erfi)
        p = torch.nn.Parameter(torch.tensor(START))
        optimizer, scales = cls([p], lr=1.0, **options), []
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = lr(step)
            p.grad = torch.tensor(gradient(step, p.tolist()))
            optimizer.step()
            scales.append(max(float(optimizer.state[of_tuner]["s"].sum()), 0.0))
        found[key] = {"s": scales[EVERY - 1 :: EVERY], "x": p.tolist()}
    return found


def exact_erfi(x: float) -> float:
    """2/√π·Σ x^(2n+1)/(n!·(2n+1)), for small x."""
    term, total = x, 0.0
    for n in range(400):
        total += term / (2 * n + 1)
        term *= x * x / (n + 1)
    return 2 / math.sqrt(math.pi) * total


def main(which: str) -> None:
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    new = {"optax": of_optax, "torch": of_torch}[which]()
    lines = [f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in sorted({**known, **new}.items())]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
