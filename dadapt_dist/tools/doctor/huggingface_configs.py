"""Find settings of Accelerate's and the Trainer's configs that are wrong for learning-rate-free training."""

from dataclasses import fields, replace

from ...methods.registry import class_names
from .deepspeed_zero import STAGES
from .findings import (
    Config,
    Finding,
    Findings,
    check_multiplier,
    check_warm_up,
    is_off,
    is_on,
    key_name,
    meant,
    nearest,
    number,
    section,
    shown,
    suggested,
)


def is_accelerate(config: Config) -> bool:
    """Return whether this looks like the YAML of `accelerate config`."""
    return "distributed_type" in config


def is_trainer(config: Config) -> bool:
    """Return whether this looks like transformers' TrainingArguments."""
    return "output_dir" in config or "learning_rate" in config


# What Accelerate refuses beside a DeepSpeed file, which has it.
IN_FILE = (
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
    "offload_optimizer_nvme_path",
    "offload_param_device",
    "offload_param_nvme_path",
    "zero3_save_16bit_model",
)
PRECISIONS = ("no", "fp16", "bf16", "fp8")
TRAINERS_LR = 5e-5
OLDER_KEYS = {"fp16", "dynamo_backend"}


def check_accelerate(config: Config) -> Findings:
    """Every setting that is wrong. Of a DeepSpeed config that it names, see that file's own check."""
    yield from _values(config)
    yield from _sections(config)
    yield from _keys(config)


def _values(config: Config) -> Findings:
    """Values that Accelerate refuses."""
    zero = section(config, "deepspeed_config")
    precision = config.get("mixed_precision") or "no"
    if config.get("mixed_precision") is False:
        cure = "write 'no', in quotation marks: without them YAML takes it for false"
        yield Finding("mixed_precision", "false is no precision", cure)
    elif str(precision).lower() not in PRECISIONS:
        yield Finding("mixed_precision", f"{shown(precision)} is no precision", f"it is one of {', '.join(PRECISIONS)}")
    if zero.get("zero_stage", "auto") not in ("auto", *STAGES, *map(str, STAGES)):
        problem = f"{shown(zero['zero_stage'])} is no stage of ZeRO"
        yield Finding("deepspeed_config.zero_stage", problem, "set it to 0, 1, 2 or 3")
    if "deepspeed_config_file" in zero:
        beside = [f"deepspeed_config.{name}" for name in IN_FILE if name in zero]
        beside += ["mixed_precision"] if config.get("mixed_precision") is not None else []
        for where in beside:
            yield Finding(
                where, "Accelerate refuses it beside deepspeed_config_file", "remove it, and set it in that file"
            )


def _keys(config: Config) -> Findings:
    """Names that Accelerate does not know; nothing where it is not installed."""
    try:
        from accelerate.commands.config.config_args import (  # type: ignore[import-untyped]
            ClusterConfig,
            SageMakerConfig,
        )
        from accelerate.commands.launch import launch_command_parser  # type: ignore[import-untyped]
        from accelerate.utils import DistributedType  # type: ignore[import-untyped]
    except ImportError:
        yield Finding(
            "accelerate", "not installed here, so names were not checked", "install it to have them", is_note=True
        )
        return
    kind, kinds = config.get("distributed_type"), [str(one.value) for one in DistributedType]
    if isinstance(kind, bool):
        yield Finding(
            "distributed_type", "false is none", "write 'NO', in quotation marks: without them YAML takes it for false"
        )
    elif str(kind) not in kinds:
        yield Finding(
            "distributed_type", f"{shown(kind)} is none", f"{suggested(str(kind), kinds)}It has {', '.join(kinds)}"
        )
    known = {one.name for made in (ClusterConfig, SageMakerConfig) for one in fields(made)} | OLDER_KEYS
    for name in config:
        if name not in known:
            cure = meant(name, known, config, cutoff=0.8) or "remove it"
            yield Finding(key_name(name), "Accelerate refuses a file with a setting that it does not know", cure)
    options = {action.dest for action in launch_command_parser()._actions}
    for name in ("deepspeed_config", "fsdp_config"):
        yield from _options(name, section(config, name), options)


def _options(name: str, given: Config, options: set[str]) -> Findings:
    """Names in a section, which Accelerate hands on as options of `accelerate launch`."""
    prefix = "fsdp_" if name == "fsdp_config" else ""
    for key in given:
        full = str(key) if str(key).startswith(prefix) else f"{prefix}{key}"
        if full in options:
            continue
        cure = meant(full, {one for one in options if one.startswith(prefix)}, given, cutoff=0.8)
        problem = "Accelerate does not know it, and passes over it"
        yield Finding(f"{name}.{key_name(key)}", problem, cure or "remove it", is_error=cure is not None)


def _sections(config: Config) -> Findings:
    """Sections that do not go with learning-rate-free training."""
    kind = str(config.get("distributed_type")).upper()
    fsdp, zero = section(config, "fsdp_config"), section(config, "deepspeed_config")
    version = number(fsdp.get("fsdp_version", 1))
    if kind == "FSDP" and version == 1 and is_off(fsdp.get("fsdp_use_orig_params", True)):
        yield Finding(
            "fsdp_config.fsdp_use_orig_params",
            "an optimizer that is built before prepare() then holds parameters that FSDP1 has replaced, and trains nothing",
            "set it to true, or use fsdp_version: 2",
        )
    if kind == "DEEPSPEED" and "deepspeed_config_file" not in zero:
        device = str(zero.get("offload_optimizer_device") or "none")
        if device != "none":
            yield Finding(
                "deepspeed_config.offload_optimizer_device",
                f"with {device} Accelerate puts DeepSpeedCPUAdam in the place of every optimizer",
                "name a deepspeed_config_file with zero_force_ds_cpu_optimizer: false instead",
            )


def check_trainer(config: Config) -> Findings:
    """Every setting that is wrong."""
    lr = config.get("learning_rate", TRAINERS_LR)
    what = "the learning rate" if "learning_rate" in config else "the default"
    if number(lr) is None:
        yield Finding("learning_rate", f"{shown(lr)} is no number", "set it to 1.0")
    for finding in check_multiplier(
        "learning_rate", lr, f"unless the optimizer comes by optimizer_cls_and_kwargs, {what}"
    ):
        yield replace(finding, is_error=False)
    if config.get("optim") is not None:
        yield from _optim(str(config["optim"]))
    for name in ("warmup_steps", "warmup_ratio"):
        yield from check_warm_up(name, config.get(name, 0), None)
    if is_on(config.get("fp16")) and is_on(config.get("bf16")):
        yield Finding(
            "bf16", "fp16 is on, too, and the Trainer takes one of them", "leave one out; bf16 needs no scale"
        )
    yield from _arguments(config)


def _arguments(config: Config) -> Findings:
    """Names that are nearly those of the Trainer; others may belong to the script."""
    try:
        from transformers import TrainingArguments
    except ImportError:
        return
    known = {one.name for one in fields(TrainingArguments)}
    for name in config:
        cure = None if name in known else meant(name, known, config, cutoff=0.85)
        if cure:
            yield Finding(key_name(name), "TrainingArguments has no such setting", cure, is_error=False)


def _optim(name: str) -> Findings:
    """The Trainer knows none of our methods by name."""
    try:
        from transformers.training_args import OptimizerNames
    except ImportError:
        return
    if name not in {str(one.value) for one in OptimizerNames}:
        method = nearest(name, class_names()) or "Prodigy"
        yield Finding(
            "optim",
            f"{name!r} is no optimizer of the Trainer",
            f"remove it, and give the Trainer optimizer_cls_and_kwargs=(dadapt_dist.{method}, {{}})",
        )
