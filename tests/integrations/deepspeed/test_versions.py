"""Check that the oldest and newest supported DeepSpeed give one process's d, and that unsupported ones are reported."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dadapt_dist.comm.communicator import ShardLayout
from dadapt_dist.integrations.deepspeed import unsupported
from dadapt_dist.integrations.deepspeed.internals import TESTED
from tests.helpers.classes import EVERY
from tests.helpers.oracles import ORACLES
from tests.helpers.pool import WorkerPool

OLDEST, NEWEST = TESTED
FOLDER = Path(sys.prefix) / f"deepspeed-{OLDEST}"
STEPS, BATCH, SCALE = 5, 8, 2.0**8
OPTIONS = {"d0": 1e-3, "eps": 1e-3}  # so large an eps that a gradient of another scale gives another d
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Case = tuple[int, str, int]  # stage, precision, number of groups
EVERY_CASE: list[Case] = [(stage, p, groups) for stage in range(4) for p in ("fp32", "bf16") for groups in (1, 3)]
# All, or the half that has every stage with every precision, and with each number of groups.
CASES = [case for case in EVERY_CASE if EVERY or (case[0] + (case[1] == "bf16") + (case[2] == 3)) % 2 == 0]


class Odd(nn.Module):
    """Odd sizes, so that everything is padded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.norm, self.head = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.inp(x))))

    def groups(self, number: int) -> list[list[int]]:
        """Indices of the parameters of each group: one, or matrices, vectors and the head."""
        ndims = [p.ndim for p in self.parameters()]
        head = [name for name, _ in self.named_parameters()].index("head.weight")
        if number == 1:
            return [list(range(len(ndims)))]
        return [
            [i for i, n in enumerate(ndims) if n == 2 and i != head],
            [i for i, n in enumerate(ndims) if n == 1],
            [head],
        ]


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(BATCH, 5, generator=generator)
    return x, torch.tanh(x[:, :3]) + 0.5


def loss_of(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    return ((model(x.to(dtype)).to(y.dtype) - y) ** 2).mean()


def train(case: Case) -> dict[str, Any]:
    """On each rank: d after every step through DeepSpeed, the reduces of each, and the wrapper's class."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    os.environ.setdefault("LOCAL_SIZE", "2")  # older versions ask the program numactl else
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    get_accelerator().is_fp16_supported = lambda: True
    stage, precision, number = case
    model, rank = Odd(), dist.get_rank()
    params = list(model.parameters())
    groups = [{"params": [params[i] for i in which]} for which in model.groups(number)]
    zero = {"stage": stage, "reduce_bucket_size": 10000, "stage3_param_persistence_threshold": 0}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": BATCH // 2,
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
        "zero_optimization": zero,
        "optimizer": {"type": "Prodigy", "params": OPTIONS},
    }
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
    if precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": SCALE}
    with contextlib.redirect_stdout(io.StringIO()):
        engine = deepspeed.initialize(model=model, model_parameters=groups, config=config)[0]
    base, ds, reduces = engine.basic_optimizer, [], []
    for step in range(STEPS):
        x, y = (t.chunk(2)[rank] for t in batch(step))
        with counted() as count:
            engine.backward(loss_of(engine, x, y, DTYPES[precision]))
            engine.step()
        reduces.append(count[0])
        ds.append(base.d)
    said = {"version": deepspeed.__version__, "wrapper": type(engine.optimizer).__name__, "d": ds, "reduces": reduces}
    if hasattr(engine, "destroy"):
        engine.destroy()
    return said


def train_all(cases: list[Case]) -> list[dict[str, Any]]:
    return [train(case) for case in cases]


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    original, count = ShardLayout.all_reduce, [0]

    def reduce(layout: ShardLayout, sums: Tensor) -> Any:
        count[0] += 1
        return original(layout, sums)

    ShardLayout.all_reduce = reduce  # type: ignore[method-assign]
    try:
        yield count
    finally:
        ShardLayout.all_reduce = original  # type: ignore[method-assign]


def reference(case: Case) -> list[float]:
    """d after every step in one process: float64, but for gradients, which are those of low-precision copies."""
    _, precision, number = case
    dtype = DTYPES[precision] if precision != "fp32" else torch.float64
    model = Odd().to(dtype)
    starts = [p.float() for p in model.parameters()] if precision != "fp32" else list(model.parameters())
    oracle = ORACLES["prodigy"](starts, [{"indices": which} for which in Odd().groups(number)], **OPTIONS)
    ds = []
    for step in range(STEPS):
        halves = []
        for x, y in zip(*(t.chunk(2) for t in batch(step)), strict=True):
            with torch.no_grad():
                for p, value in zip(model.parameters(), oracle.params, strict=True):
                    p.copy_(value.float() if precision != "fp32" else value)
            scale = SCALE if precision == "fp16" else 1.0
            y = y.double() if precision == "fp32" else y
            halves.append(torch.autograd.grad(loss_of(model, x, y, dtype) * scale, list(model.parameters())))
        oracle.step([(a + b).double() / 2 / scale for a, b in zip(*halves, strict=True)])
        ds.append(oracle.d)
    return ds


def deviation(ds: list[float], expected: list[float]) -> float:
    return max(abs(d / e - 1) for d, e in zip(ds, expected, strict=True))


def check(ranks: list[list[dict[str, Any]]], version: str, cases: list[Case]) -> None:
    """All ranks and all cases: the version, one process's d, bit for bit the same on both ranks, one reduce a step."""
    for case, first, second in zip(cases, *ranks, strict=True):
        assert first["version"] == version
        assert first["d"] == second["d"], case
        assert first["reduces"][1:] == [1] * (STEPS - 1), case
        assert deviation(first["d"], reference(case)) < 2e-6, case
        assert first["d"][-1] > 1.5 * first["d"][0], case


def test_the_newest_deepspeed_trains_at_every_stage(pool2: WorkerPool) -> None:
    """One case a stage: all others stand in test_stages."""
    check(pool2.run(train_all, CASES[::5]), NEWEST, CASES[::5])


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"DeepSpeed {OLDEST} is not unpacked into {FOLDER}: run `make setup`")
def test_the_oldest_deepspeed_trains_at_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))  # workers receive it
    pool = WorkerPool(2)
    try:
        check(pool.run(train_all, CASES, timeout=200), OLDEST, CASES)
    finally:
        pool.close()


# ---------------------------------------------------------------- known defects of DeepSpeed


def train_and_listen(cases: list[Case]) -> list[tuple[float, list[str]]]:
    """For each case, how far d is from one process's, and what is logged on this rank."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    unsupported.logger.addHandler(handler)
    unsupported._said.clear()
    results = []
    try:
        for case in cases:
            said.clear()
            ds = train(case)["d"]
            results.append((deviation(ds, reference(case)), list(said)))
    finally:
        unsupported.logger.removeHandler(handler)
    return results


def test_fp16_at_stage_0_is_warned_of_once_because_deepspeed_has_it_wrong(pool2: WorkerPool) -> None:
    """A DeepSpeed that has it right fails here: then end the range in DEFECTS."""
    cases: list[Case] = [(1, "fp16", 1), (0, "fp16", 1), (0, "fp16", 3), (3, "fp16", 3)]
    for right, wrong, again, other in pool2.run(train_and_listen, cases):
        assert right[0] < 2e-6
        assert other[0] < 2e-6
        assert right[1] == other[1] == again[1] == []
        assert wrong[0] > 0.1
        assert len(wrong[1]) == 1
        assert f"DeepSpeed {NEWEST} divides the gradients by a loss scale" in wrong[1][0]
        assert "Use ZeRO stage 1" in wrong[1][0]


def engine(wrapper: str, precision: str, scale: float = 0) -> Any:
    return SimpleNamespace(
        basic_optimizer=object(),
        optimizer=type(wrapper, (SimpleNamespace,), {})(fp16_groups=[], fp32_groups=[], bf16_groups=[]),
        bfloat16_enabled=lambda: precision == "bf16",
        loss_scale=lambda: scale,
    )


@pytest.mark.parametrize(
    ("version", "precision", "scale", "warned"),
    [
        ("0.17.5", "bf16", 0, False),
        ("0.17.6", "bf16", 0, True),
        ("0.18.5+cu128", "bf16", 0, True),
        ("0.18.6", "bf16", 0, False),
        ("0.18.2", "fp16", 0, False),
        ("0.18.3", "fp16", 0, True),
        ("0.19.8", "fp16", 0, True),
        ("0.19.8", "fp16", 1, False),  # nothing to divide by
        ("0.20.0", "fp16", 0, False),
    ],
)
def test_the_versions_that_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    library_log: pytest.LogCaptureFixture,
    version: str,
    precision: str,
    scale: float,
    warned: bool,
) -> None:
    monkeypatch.setattr(unsupported, "version", lambda: version)
    monkeypatch.setattr(unsupported, "_said", set())
    for _ in range(2):
        unsupported.warn(engine("FP16_UnfusedOptimizer", precision, scale))
    assert len(library_log.messages) == warned
    assert all(f"DeepSpeed {version} " in text and precision in text for text in library_log.messages)
