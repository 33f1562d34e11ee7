"""Train with each released package alone, under FSDP2 and under ZeRO, and say whether it does there what it does alone.

    pip install prodigyopt dadaptation prodigy-plus-schedule-free pytorch_optimizer schedulefree optax jax
    python -m docs.measure_packages [--steps 100] [--json FILE] [--only NAME]

Every run is a process group of its own on this machine: the same regression, float32, every rank with the whole batch, so that
the gradients of two ranks are those of one. Packages that are not installed are left out.
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard

LAYOUTS = {"alone": 1, "fsdp2": 2, "zero1": 2, "zero3": 2}
SECONDS = 120
"""A run that takes longer hangs."""
OURS = "dadapt-dist"


def _class(module: str, name: str, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    def make(params: Any) -> Any:
        return getattr(importlib.import_module(module), name)(params, lr=1.0, **options)

    return make


def _schedule_free(params: Any) -> Any:
    optimizer = importlib.import_module("schedulefree").AdamWScheduleFree(params, lr=0.01)
    optimizer.train()
    return optimizer


PACKAGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ours": (OURS, _class("dadapt_dist", "Prodigy")),
    "prodigyopt Prodigy": ("prodigyopt", _class("prodigyopt", "Prodigy")),
    "prodigyopt Prodigy, fsdp_in_use": ("prodigyopt", _class("prodigyopt", "Prodigy", fsdp_in_use=True)),
    "dadaptation DAdaptAdam": ("dadaptation", _class("dadaptation", "DAdaptAdam")),
    "dadaptation DAdaptAdam, fsdp_in_use": ("dadaptation", _class("dadaptation", "DAdaptAdam", fsdp_in_use=True)),
    "ProdigyPlusScheduleFree": ("prodigy-plus-schedule-free", _class("prodigyplus", "ProdigyPlusScheduleFree")),
    "pytorch_optimizer Prodigy": ("pytorch_optimizer", _class("pytorch_optimizer", "Prodigy")),
    "schedulefree AdamW (lr 0.01)": ("schedulefree", _schedule_free),
}


def main() -> None:
    """Run everything that is installed and write a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="part of a package's name")
    chosen = parser.parse_args()
    rows = []
    for name, (package, _) in PACKAGES.items():
        if is_wanted(package, chosen.only):
            rows.append({"name": name, **{layout: run(name, layout, chosen.steps) for layout in LAYOUTS}})
            sys.stdout.write(f"{as_row(rows[-1])}\n")
            sys.stdout.flush()
    if is_wanted("optax", chosen.only) and is_wanted("jax", ""):
        rows.append({"name": "optax prodigy", **optax_rows(chosen.steps)})
        sys.stdout.write(f"{as_row(rows[-1])}\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def is_wanted(package: str, part: str) -> bool:
    """Whether a package is installed, and its name holds what --only says."""
    try:
        return bool(version(package)) and part in package
    except PackageNotFoundError:
        return False


def run(name: str, layout: str, steps: int) -> dict[str, Any]:
    """d and weights of each rank after training, or how the run ended."""
    with tempfile.TemporaryDirectory() as folder:
        workers = mp.spawn(worker, (name, layout, steps, folder), LAYOUTS[layout], join=False)
        end = time.monotonic() + SECONDS
        while not (done := workers.join(5)) and time.monotonic() < end:
            pass
        for process in workers.processes:
            process.kill()
        ends = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank*.json"))]
    wrong = [end["error"] for end in ends if "error" in end]
    if wrong:
        return {"error": wrong[0]}
    return {"ranks": ends} if done and len(ends) == LAYOUTS[layout] else {"error": f"hangs for {SECONDS} s"}


def worker(rank: int, name: str, layout: str, steps: int, folder: str) -> None:
    """One rank: train, and write what it holds in the end."""
    logging.disable(logging.WARNING)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(LAYOUTS[layout])}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu", "USE_TORCH_DISTRIBUTED": "1"}
    file = Path(folder, "store")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=LAYOUTS[layout])
        try:
            end = trained(PACKAGES[name][1], layout, steps)
        except Exception as error:  # noqa: BLE001 - whatever another package raises is the result
            end = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(end))
    os._exit(0)  # no farewell to a rank that has failed


def trained(make: Callable[[Any], Any], layout: str, steps: int) -> dict[str, Any]:
    """Train the regression; the d that this rank holds, and the model's outputs in the end."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    targets = torch.tanh(inputs @ torch.randn(8, 8))
    model: Any = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8))
    if layout.startswith("zero"):
        engine, optimizer = of_deepspeed(model, make, int(layout[-1]))
    else:
        engine = fully_shard(model) if layout == "fsdp2" else model
        optimizer = make(engine.parameters())
    loss = torch.zeros(())
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(engine(inputs), targets)
        engine.backward(loss) if layout.startswith("zero") else loss.backward()
        (engine if layout.startswith("zero") else optimizer).step()
        optimizer.zero_grad()
    d = optimizer.param_groups[0].get("d")
    return {"d": None if d is None else float(d), "loss": float(loss)}


def of_deepspeed(model: Any, make: Callable[[Any], Any], stage: int) -> tuple[Any, Any]:
    """A ZeRO engine around the package's optimizer, and the optimizer itself."""
    deepspeed = importlib.import_module("deepspeed")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # takes a minute to build
    config = {
        "train_micro_batch_size_per_gpu": 256,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # 1.0 where DeepSpeed is left to itself
    }
    optimizer = make(list(model.parameters()))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer


def optax_rows(steps: int) -> dict[str, Any]:
    """optax's Prodigy alone and with arrays sharded over two devices, which JAX emulates on a CPU."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    jax = importlib.import_module("jax")
    optax = importlib.import_module("optax")
    jnp, sharding = jax.numpy, jax.sharding
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    targets = torch.tanh(inputs @ torch.randn(8, 8))
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8))
    data = jnp.asarray(inputs.numpy()), jnp.asarray(targets.numpy())
    start = [jnp.asarray(p.detach().numpy()) for p in model.parameters()]

    def loss(weights: Any) -> Any:
        hidden = jnp.tanh(data[0] @ weights[0].T + weights[1])
        return ((hidden @ weights[2].T + weights[3] - data[1]) ** 2).mean()

    def d_of(weights: Any) -> dict[str, Any]:
        optimizer = optax.contrib.prodigy(learning_rate=1.0)
        state = optimizer.init(weights)

        @jax.jit
        def step(weights: Any, state: Any) -> Any:
            updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
            return optax.apply_updates(weights, updates), state

        for _ in range(steps):
            weights, state = jax.block_until_ready(step(weights, state))
        return {"ranks": [{"d": float(state.estim_lr), "loss": float(loss(weights))}]}

    mesh = sharding.Mesh(jax.devices()[:2], ("ranks",))
    cut = [sharding.PartitionSpec("ranks") if p.shape[0] % 2 == 0 else sharding.PartitionSpec() for p in start]
    spread = [jax.device_put(p, sharding.NamedSharding(mesh, spec)) for p, spec in zip(start, cut, strict=True)]
    return {"alone": d_of(start), "sharded": d_of(spread)}


def as_row(row: dict[str, Any]) -> str:
    """A row of the table: the optimizer, and the outcome under each layout."""
    return " | ".join([f"| {row['name']}", *(said(row[layout]) for layout in row if layout != "name")]) + " |"


def said(outcome: dict[str, Any]) -> str:
    """d on each rank, or the loss where there is no d, or the error."""
    if "error" in outcome:
        return str(outcome["error"])
    ds = [f"{end['d']:.9g}" for end in outcome["ranks"] if end["d"] is not None]
    return ", ".join(ds) if ds else "loss " + ", ".join(f"{end['loss']:.9g}" for end in outcome["ranks"])


if __name__ == "__main__":
    main()
