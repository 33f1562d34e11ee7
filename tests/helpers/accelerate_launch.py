"""Turn a worker into a process that `accelerate launch` would have started under a file of configs/accelerate.

The file becomes environment variables by Accelerate's own code, as its launcher does it. Only the device is ours: Accelerate
has no FSDP and no DeepSpeed on CPUs, so it is told that the processes form a group of GPUs, with the device "cpu".
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
OPTIONS: dict[str, Any] = {"d0": 1e-3, "d_coef": 4.0, "safeguard_warmup": True, "weight_decay": 0.1}
# What the launcher sets for its children and a worker has already.
KEPT = {"OMP_NUM_THREADS", "PYTHONPATH", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the script.

    config: a file of configs/accelerate. launch: arguments of `accelerate launch` that change it. json: a DeepSpeed file; when
    it names the optimizer, the script has DummyOptim. spoiled: step -> rank whose loss is infinite. scaled: with a
    GradScaler, which Accelerate makes itself only on GPUs. late: the optimizer is built from the prepared model.
    """

    config: str
    launch: tuple[str, ...] = ("--mixed_precision", "no")
    accumulation: int = 1
    json: str | None = None
    optimizer: str = "Prodigy"
    options: Mapping[str, Any] = field(default_factory=lambda: OPTIONS)
    spoiled: Mapping[int, int] = field(default_factory=dict)
    scaled: bool = False
    late: bool = False

    @property
    def deepspeed(self) -> bool:
        return self.config.startswith("zero")

    @property
    def named(self) -> dict[str, Any] | None:
        """The options of the optimizer that the DeepSpeed file names."""
        entry = json.loads(Path(self.json).read_text()).get("optimizer") if self.json else None
        return entry and entry["params"]

    @property
    def dtype(self) -> torch.dtype:
        """That of weights and data. Float64 where nothing rounds them."""
        exact = "no" in self.launch and not self.deepspeed
        return torch.float64 if exact and not self.scaled else torch.float32


def environment(case: Case) -> dict[str, str]:
    """The variables that `accelerate launch --config_file ...` gives to its processes."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    line = ["--config_file", str(CONFIGS / f"{case.config}.yaml"), "--num_processes", "2", *case.launch]
    if case.json:
        line += ["--deepspeed_config_file", case.json]
    if case.config == "fsdp1":
        line += ["--fsdp_sync_module_states", "false"]  # Accelerate asks for a GPU to do it with
    args, defaults, from_file = launch._validate_launch_command(
        launch.launch_command_parser().parse_args([*line, "train.py"])
    )
    if args.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if from_file else [])]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        made = prepare_deepspeed_cmd_env(args)[1]
    else:
        made = prepare_multi_gpu_env(args)
    return {name: value for name, value in made.items() if name not in KEPT and os.environ.get(name) != value}


@contextmanager
def launched(case: Case) -> Iterator[None]:
    """This process as `accelerate launch` would have started it, but on its CPU."""
    import accelerate.state as states
    from accelerate.utils import DistributedType

    given, before, original = environment(case), dict(os.environ), states.PartialState._prepare_backend
    os.environ.update(given)
    if case.config == "ddp":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    else:
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        states.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    if case.deepspeed:
        from .deepspeed_runs import quiet_deepspeed

        quiet_deepspeed()
    _reset(states)
    try:
        with _staying_on_cpu(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torch|accelerate|deepspeed)\.")
            yield
    finally:
        _reset(states)
        states.PartialState._prepare_backend = original
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _staying_on_cpu() -> Iterator[None]:
    """Without offload_to_cpu: FSDP1 frees whole tensors after it has "copied" them from CPU to CPU, with AdamW as well."""
    from torch.distributed.fsdp import api

    classes = api.FullStateDictConfig, api.FullOptimStateDictConfig
    for cls in classes:
        cls.offload_to_cpu = property(lambda _: False, lambda *_: None)
    try:
        yield
    finally:
        for cls in classes:
            cls.offload_to_cpu = False


def _reset(states: Any) -> None:
    states.AcceleratorState._reset_state(True)
    states.GradientState._reset_state()
