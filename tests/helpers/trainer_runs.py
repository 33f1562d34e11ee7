"""Run Hugging Face's Trainer on every rank of a `WorkerPool`, and return what each rank saw.

Only the device is ours: Accelerate has no FSDP and no DeepSpeed on CPUs, so it is told that the processes form a group of
GPUs, with the device "cpu". Models are tiny and random; nothing is downloaded.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import dadapt_dist as dd

STEPS, SAVED, BATCH, VOCABULARY, LENGTH = 8, 4, 8, 32, 12
OPTIONS: dict[str, Any] = {"d0": 1e-3, "d_coef": 2.0, "safeguard_warmup": True}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run. kind: "one", "ddp", "fsdp2", "zero2", "zero3"; json: DeepSpeed builds the optimizer from its config."""

    kind: str
    json: bool = False
    optimizer: str = "Prodigy"
    options: dict[str, Any] = field(default_factory=lambda: OPTIONS)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def deepspeed(self) -> bool:
        return self.kind.startswith("zero")


@dataclass
class Run:
    """What one rank saw: the Trainer's log, what a tracker was given, the groups and the weights at the end."""

    history: list[dict[str, Any]]
    tracked: list[dict[str, Any]]
    groups: list[int]
    weights: list[Tensor]
    wrapper: str

    def of(self, name: str) -> list[float]:
        return [entry[name] for entry in self.history if "loss" in entry]


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Random walks over the vocabulary: something to learn."""

    def __init__(self) -> None:
        steps = torch.randint(0, 3, (STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
        self.ids = steps.cumsum(1) % VOCABULARY

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def llama(seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@contextmanager
def world(case: Case) -> Iterator[None]:
    """This process as Accelerate's launcher would have started it, but on its CPU."""
    import accelerate.state as states
    from accelerate.utils import DistributedType

    before, original = dict(os.environ), states.PartialState._prepare_backend
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if case.kind not in ("one", "ddp"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        states.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    if case.kind.startswith("fsdp"):
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    if case.deepspeed:
        from .deepspeed_runs import quiet_deepspeed

        quiet_deepspeed()
    _reset(states)
    try:
        yield
    finally:
        _reset(states)
        states.PartialState._prepare_backend = original
        os.environ.clear()
        os.environ.update(before)


def _reset(states: Any) -> None:
    states.AcceleratorState._reset_state(True)
    states.GradientState._reset_state()


def _arguments(case: Case, folder: str) -> Any:
    from transformers import TrainingArguments

    size = dist.get_world_size() if dist.is_initialized() else 1
    given: dict[str, Any] = {
        "output_dir": folder, "learning_rate": 1.0, "lr_scheduler_type": "linear", "warmup_steps": 2, "max_steps": STEPS,
        "per_device_train_batch_size": BATCH // size, "logging_steps": 1, "save_steps": SAVED, "report_to": [],
        "disable_tqdm": True, "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 0, "dataloader_pin_memory": False,
    }  # fmt: skip
    if case.kind in ("one", "ddp"):
        given["use_cpu"] = True
    if case.kind == "fsdp2":
        wrapped = {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
        given |= {"fsdp": True, "fsdp_config": wrapped | {"state_dict_type": "SHARDED_STATE_DICT"}}
    if case.deepspeed:
        given["deepspeed"] = _deepspeed(case)
    return TrainingArguments(**given | case.arguments)


def _deepspeed(case: Case) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto", "gradient_accumulation_steps": "auto",
        "zero_optimization": {"stage": int(case.kind[-1]), "stage3_param_persistence_threshold": 0},
    }  # fmt: skip
    if case.json:
        config["optimizer"] = {"type": case.optimizer, "params": {"lr": "auto", "weight_decay": "auto", **case.options}}
    return config


def trainer(
    case: Case, folder: str, seed: int = 0, model: nn.Module | None = None
) -> tuple[Any, "list[dict[str, Any]]"]:
    """A Trainer as users make it, and what its tracker is given."""
    from transformers import Trainer, TrainerCallback

    from dadapt_dist.integrations.transformers import DAdaptCallback

    class Tracker(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[dict[str, Any]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            self.seen.append(dict(logs))

    tracker = Tracker()
    arguments = _arguments(case, folder)  # before the model, which ZeRO-3 cuts as it is made
    made = Trainer(
        model=llama(seed) if model is None else model,
        args=arguments,
        train_dataset=Sequences(),
        callbacks=[tracker, DAdaptCallback()],
        optimizer_cls_and_kwargs=None if case.json else (getattr(dd, case.optimizer), case.options),
    )
    return made, tracker.seen


def run(case: Case, folder: str, resume: bool = False) -> Run:
    """All steps, or those after the checkpoint in the middle with a model that begins elsewhere."""
    with world(case):
        made, seen = trainer(case, folder, seed=int(resume))
        made.train(resume_from_checkpoint=str(Path(folder) / f"checkpoint-{SAVED}") if resume else None)
        base = dd.base_optimizer(made.optimizer)
        found = Run(
            history=list(made.state.log_history),
            tracked=seen,
            groups=[len(group["params"]) for group in base._all_groups],
            weights=_weights(case, made.model_wrapped),
            wrapper=type(made.optimizer).__name__,
        )
        if case.deepspeed:
            made.model_wrapped.destroy()
        made.accelerator.free_memory()
    gc.collect()
    return found


def _weights(case: Case, model: nn.Module) -> list[Tensor]:
    if case.deepspeed:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            return [p.detach().clone() for p in model.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in model.parameters()]


def run_and_resume(case: Case, folder: str) -> tuple[Run, Run]:
    """On every rank: the uninterrupted run, and one that goes on from its checkpoint."""
    return run(case, folder), run(case, folder, resume=True)
