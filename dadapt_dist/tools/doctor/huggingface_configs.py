"""Find settings of Accelerate's and the Trainer's configs that are wrong for learning-rate-free training."""

from dataclasses import replace

from ...methods.registry import class_names
from .findings import Config, Finding, Findings, check_multiplier, check_warm_up, is_off, nearest, number, section


def is_accelerate(config: Config) -> bool:
    """Return whether this looks like the YAML of `accelerate config`."""
    return "distributed_type" in config


def is_trainer(config: Config) -> bool:
    """Return whether this looks like transformers' TrainingArguments."""
    return "output_dir" in config or "learning_rate" in config


def check_accelerate(config: Config) -> Findings:
    """Every setting that is wrong. Of a DeepSpeed config that it names, see that file's own check."""
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
    lr = config.get("learning_rate", 5e-5)
    what = "the learning rate" if "learning_rate" in config else "the default"
    for finding in check_multiplier(
        "learning_rate", lr, f"unless the optimizer comes by optimizer_cls_and_kwargs, {what}"
    ):
        yield replace(finding, is_error=False)
    if config.get("optim") is not None:
        yield from _optim(str(config["optim"]))
    for name in ("warmup_steps", "warmup_ratio"):
        yield from check_warm_up(name, config.get(name, 0), None)


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
