"""Check that PyTorch Lightning trains our optimizers as one process does, logs d, resumes and warns of mistakes."""

import gc
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.sharding import live_objects
from tests.helpers.classes import ALL, WITH_D, WITH_RATE, first_d
from tests.helpers.lightning_runs import OPTIONS, STEPS, Case, Run, loader, module, run, run_and_resume, trainer, world
from tests.helpers.pool import WorkerPool
from tests.helpers.said import Messages, said_while

pytest.importorskip("lightning")
from lightning.pytorch.plugins.precision import MixedPrecision

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
        "The `srun` command is available on your system:UserWarning",
        "The 'train_dataloader' does not have many workers:UserWarning",
        "You're resuming from a checkpoint that ended before the epoch ended:UserWarning",
    )
]

ROOT = Path(__file__).parents[3]
EXACT, FLOAT32 = 1e-12, 3e-6  # relative, of d, and absolute, of the weights; the largest seen are 1e-15 and 4e-7
# Prodigy, and a method with a blocking reduce: every method under every layout is in tests/distributed/test_layouts.py.
KINDS = [
    Case(kind="ddp"),
    Case(kind="fsdp1"),
    Case(kind="fsdp2"),
    Case(kind="fsdp2", optimizer="DAdaptSGD", options={"d0": 1e-3, "momentum": 0.9}),
    Case(kind="zero2"),
    Case(kind="zero3"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same case in this process."""
    found: dict[str, Run] = {}

    def get(case: Case) -> Run:
        case = replace(case, kind="one", exact=case.dtype == torch.float64)
        if str(case) not in found:
            found[str(case)] = run(case, str(tmp_path_factory.mktemp("one")))
        return found[str(case)]

    return get


def said(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name.startswith("dadapt_dist.integrations")]


def test_the_logger_gets_d_and_effective_lr_of_the_step_every_few_steps(alone: Any, library_log: Any) -> None:
    found = alone(Case(kind="one"))
    rates = [1 / 2, 1, *((STEPS - k) / (STEPS - 2) for k in range(2, STEPS))]
    before = [1e-3, *found.d]  # that of a step is known before it
    assert [entry["step"] for entry in found.logged] == [1, 3, 5, 7]
    for entry in found.logged:
        d = before[int(entry["step"])]
        assert entry["d"] == pytest.approx(d, rel=1e-6)  # Lightning logs float32
        assert entry["effective_lr"] == pytest.approx(d * rates[int(entry["step"])], rel=1e-6)
    assert found.d[0] < found.d[-1]
    assert said(library_log) == []


@pytest.mark.parametrize("method", ALL)
def test_every_method_trains_resumes_and_is_logged(method: str, alone: Any, tmp_path: Path) -> None:
    case = Case(kind="one", optimizer=ALL[method].__name__, options=first_d(method, 1e-3))
    whole, resumed = alone(case), run(case, str(tmp_path), resume=True)
    assert [entry["step"] for entry in whole.logged] == [1, 3, 5, 7]
    assert [math.isfinite(entry["d"]) for entry in whole.logged] == [method in WITH_D] * 4
    rates = [math.isfinite(entry["effective_lr"]) for entry in whole.logged]
    assert rates == [method in WITH_RATE] * 4
    assert whole.d == pytest.approx(resumed.d, rel=0, nan_ok=method not in WITH_D)
    assert all(map(torch.equal, whole.weights, resumed.weights))


def test_d_is_read_for_logged_steps_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each reading waits for the device and for the reduce under way."""
    from dadapt_dist.integrations import lightning

    calls: list[Any] = []
    monkeypatch.setattr(lightning, "logged", lambda optimizer: calls.append(optimizer) or {"d": 1.0})
    case = Case(kind="one")
    with world(case):
        trainer(case, str(tmp_path))[0].fit(module(case), loader())
    assert len(calls) == STEPS // 2


def test_a_run_resumed_in_one_process_is_the_uninterrupted_one_to_the_bit(alone: Any, tmp_path: Path) -> None:
    case = Case(kind="one")
    whole, resumed = alone(case), run(case, str(tmp_path), resume=True)
    assert whole.d == resumed.d
    assert all(map(torch.equal, whole.weights, resumed.weights))


OF_THE_MATRIX = {("fsdp1", "Prodigy"), ("fsdp2", "DAdaptSGD"), ("zero2", "Prodigy")}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.matrix] * ((c.kind, c.optimizer) in OF_THE_MATRIX)) for c in KINDS],
    ids=lambda case: f"{case.kind}-{case.optimizer}",
)
def test_two_processes_follow_one_and_resume_to_the_bit(
    case: Case, alone: Any, pool2: WorkerPool, tmp_path: Path
) -> None:
    (whole, resumed), others = pool2.run(run_and_resume, case, str(tmp_path), timeout=120)
    for mine, theirs in zip((whole, resumed), others, strict=True):
        assert mine.d == theirs.d
        assert all(map(torch.equal, mine.weights, theirs.weights))
    bound, wanted = EXACT if case.dtype == torch.float64 else FLOAT32, alone(case)
    assert max(abs(a / b - 1) for a, b in zip(whole.d, wanted.d, strict=True)) < bound
    assert max(float((a - b).abs().max()) for a, b in zip(whole.weights, wanted.weights, strict=True)) < bound
    assert [entry["d"] for entry in whole.logged] == pytest.approx([entry["d"] for entry in wanted.logged], rel=FLOAT32)
    assert whole.d[0] < whole.d[-1]
    assert whole.d == resumed.d
    assert all(map(torch.equal, whole.weights, resumed.weights))


def test_mistaken_settings_are_named_once_with_their_cures(library_log: Any, tmp_path: Path) -> None:
    case = Case(kind="one", options=OPTIONS | {"lr": 1e-3, "safeguard_warmup": False})
    with world(case):
        made, _ = trainer(case, str(tmp_path), 2)
        made.fit(module(case), loader())
        again, _ = trainer(case, str(tmp_path), 2, callbacks=made.callbacks)
        again.fit(module(case), loader())
    first, second = said(library_log)
    assert "lr is 0.001, not 1.0" in first
    assert "lr starts at 0.0005 of 0.001" in second
    assert "Give Prodigy recipe='auto'" in second


@pytest.mark.parametrize("clip", [None, 1e-4])
def test_a_clip_below_adagrads_first_squares_is_named(clip: float | None, library_log: Any, tmp_path: Path) -> None:
    case = Case(kind="one", optimizer="DAdaptAdaGrad", options={"d0": 1e-3})
    with world(case):
        made, _ = trainer(case, str(tmp_path), 1, gradient_clip_val=clip)
        made.fit(module(case), loader())
    assert [text.split(":")[0].split(",")[0] for text in said(library_log)] == (
        [f"gradients are clipped to a norm of 0.0001 over {n_elements(case)} elements"] if clip else []
    )


@pytest.mark.parametrize("kind", ["fsdp2", "zero2", "zero3"])
def test_a_clip_is_named_on_rank_0_with_the_elements_of_the_whole_model(
    kind: str, pool2: WorkerPool, tmp_path: Path
) -> None:
    case = Case(kind=kind, optimizer="DAdaptAdaGrad", options={"d0": 1e-3}, clip=1e-4)
    text = f"gradients are clipped to a norm of 0.0001 over {n_elements(case)} elements, "
    first, second = pool2.run(said_while, run, case, str(tmp_path))
    assert [one.startswith(text) for one in first] == [True]
    assert second == []


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_fp16_clips_gradients_whose_scale_is_taken_out(algorithm: str, tmp_path: Path) -> None:
    """The loss is multiplied by 1 or by 1024: the same steps."""
    case, ds = Case(kind="one", exact=False, clip=0.05), []
    for scale in (1.0, 1024.0):
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        net = module(case)
        with world(case):
            made, _ = trainer(case, str(tmp_path), plugins=[precision], gradient_clip_algorithm=algorithm)
            made.fit(net, loader())
        ds.append(net.seen)
    assert ds[0] == pytest.approx(ds[1], rel=0.02)
    assert ds[0][-1] > 1.5 * ds[0][0]


def n_elements(case: Case) -> int:
    return sum(p.numel() for p in module(case).parameters())


def with_optimizers(case: Case, *made: Any) -> Any:
    """A module that steps several optimizers by hand, one for each half of its layers."""

    class Several(type(module(case))):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> list[Any]:
            return [make(part.parameters()) for make, part in zip(made, (self.net.inp, self.net.head), strict=True)]

        def training_step(self, pair: Any, index: int) -> None:
            self.manual_backward(super().training_step(pair, index))
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def on_train_batch_end(self, *_: Any) -> None:
            ours = [optimizer for optimizer in self.optimizers() if isinstance(optimizer, dd.LearningRateFree)]
            self.seen = [dd.base_optimizer(optimizer).d for optimizer in ours]

    return Several()


def fit(case: Case, net: Any, folder: Path) -> list[dict[str, float]]:
    with world(case):
        made, kept = trainer(case, str(folder), 4, log_every_n_steps=1)
        made.fit(net, loader())
    return [entry for entry in kept.seen if any(name.startswith("d") for name in entry)]


def test_two_optimizers_are_logged_apart_and_others_are_passed_over(tmp_path: Path) -> None:
    case = Case(kind="one")
    both = fit(case, with_optimizers(case, dd.Prodigy, dd.DAdaptAdam), tmp_path)
    names = {f"{name}/optimizer{i}" for name in ("d", "effective_lr", "held_steps") for i in (0, 1)}
    assert set(both[-1]) - {"epoch", "step"} == {*names, "adamw_lr/optimizer0"}
    mixed = fit(case, with_optimizers(case, torch.optim.AdamW, dd.Prodigy), tmp_path)
    assert set(mixed[-1]) - {"epoch", "step"} == {"d", "effective_lr", "adamw_lr", "held_steps"}


def test_a_module_without_our_optimizers_is_refused(tmp_path: Path) -> None:
    case = Case(kind="one")
    with pytest.raises(TypeError, match="AdamW is no learning-rate-free optimizer"):
        fit(case, with_optimizers(case, torch.optim.AdamW, torch.optim.AdamW), tmp_path)


OLDER_NAME = """
import warnings; warnings.simplefilter("ignore")
import pytorch_lightning as pl, torch, dadapt_dist
from dadapt_dist.integrations.lightning import DAdaptCallback
assert issubclass(DAdaptCallback, pl.Callback)

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 1)
    def training_step(self, x, index):
        return self.net(x).square().mean()
    def configure_optimizers(self):
        return dadapt_dist.Prodigy(self.parameters())

trainer = pl.Trainer(accelerator="cpu", max_steps=3, callbacks=[DAdaptCallback()], logger=False, log_every_n_steps=1,
                     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(8, 3)))
assert {"d", "effective_lr"} <= set(trainer.callback_metrics), trainer.callback_metrics
"""


ALONE = """
import sys
sys.modules["lightning"] = sys.modules["lightning.pytorch"] = None  # not installed
import dadapt_dist.integrations.lightning
"""


@pytest.mark.parametrize(
    "before",
    [pytest.param("", marks=pytest.mark.matrix), ALONE],
    ids=["both names", "the older alone, imported after the callback"],
)
def test_it_works_under_the_older_name(tmp_path: Path, before: str) -> None:
    pytest.importorskip("pytorch_lightning")
    given = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", "-c", before + OLDER_NAME]
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- a GradScaler, and attach()


def with_overflow(kind: str, folder: str, freeze: bool = False, attach: bool = False) -> tuple[list[float], list[str]]:
    """d after each step of fp16 training in which rank 1's loss is infinite once, and what was said of a frozen heap."""
    import lightning.pytorch as pl

    case, messages = Case(kind=kind, exact=False), Messages()
    live_objects._said.clear()
    gc.unfreeze()  # what was imported before may have frozen the heap

    class Spoiled(type(module(case))):  # type: ignore[misc]
        def training_step(self, item: Any, index: int) -> Any:
            loss = super().training_step(item, index)
            return loss * float("inf") if (index, self.global_rank) == (3, 1) else loss

    class Freezing(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if freeze:
                gc.freeze()
            if attach:
                dd.attach(trainer)

    net = Spoiled()
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    logging.getLogger("dadapt_dist").addHandler(messages)
    try:
        with world(case):
            made, _ = trainer(case, folder, plugins=[precision], callbacks=[Freezing()])
            made.fit(net, loader())
            assert live_objects.is_heap_frozen() == freeze
    finally:
        gc.unfreeze()
        logging.getLogger("dadapt_dist").removeHandler(messages)
    return list(net.seen), [text for text in messages.texts if "gc.freeze() hides" in text]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_an_overflow_on_one_rank_is_left_out_on_both(kind: str, pool2: WorkerPool, tmp_path: Path) -> None:
    """Lightning unscales before it clips: DDP has brought the infinity to both ranks, torch the flag of DTensors."""
    (first, _), (second, _) = pool2.run(with_overflow, kind, str(tmp_path))
    assert first == second
    assert first[3] == first[2] < first[-1]


def test_an_attached_trainer_is_known_behind_a_frozen_heap(pool2: WorkerPool, tmp_path: Path) -> None:
    wanted = pool2.run(with_overflow, "ddp", str(tmp_path))
    assert pool2.run(with_overflow, "ddp", str(tmp_path), True, True) == wanted
    assert [said for _, said in wanted] == [[], []]
    assert all(said for _, said in pool2.run(with_overflow, "ddp", str(tmp_path), True))
