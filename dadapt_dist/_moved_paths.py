"""Import paths of release 0.1 that modules have left; each still imports, with a DeprecationWarning, until 0.3.0.

An old path gives the very module of the new one, so that classes keep their identity and pickles load. A path that nobody imports
costs nothing.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __package__
GONE_IN = "0.3.0"
MOVED = {
    "adapters": "sharding.registry",
    "adapters.accelerate_limits": "integrations.accelerate",
    "adapters.base": "sharding.shard",
    "adapters.ddp": "sharding.ddp",
    "adapters.deepspeed": "integrations.deepspeed.internals",
    "adapters.deepspeed_limits": "integrations.deepspeed.unsupported",
    "adapters.dtensor": "sharding.dtensor",
    "adapters.fsdp1": "sharding.fsdp1",
    "adapters.living": "sharding.live_objects",
    "adapters.plain": "sharding.replicated",
    "adapters.zero": "integrations.deepspeed.zero",
    "adoption": "engine.state.replaced_groups",
    "advice": "engine.diagnostics.advice",
    "advice_texts": "engine.diagnostics.advice_texts",
    "agreement": "engine.rank_agreement",
    "api": "optimizers",
    "arrival": "engine.step_window",
    "bench": "tools.bench",
    "bench.cli": "tools.bench.cli",
    "bench.memory": "tools.bench.memory",
    "bench.network": "tools.bench.emulated_network",
    "bench.peers": "tools.bench.peers",
    "bench.problems": "tools.bench.shapes",
    "bench.report": "tools.bench.report",
    "bench.scale": "tools.bench.scale",
    "bench.step": "tools.bench.step",
    "bench.sync": "tools.bench.overlap",
    "buffers": "engine.state.buffers",
    "claims": "sharding.rank_claims",
    "cli": "tools.cli",
    "company": "engine.diagnostics.separate_estimates",
    "compiled": "engine.torch_compile",
    "coverage": "sharding.replicas",
    "demo": "tools.demo",
    "demo.checkpoint": "tools.demo.checkpoint",
    "demo.grid": "tools.demo.grid",
    "demo.launch": "tools.demo.elastic",
    "demo.model": "tools.demo.model",
    "demo.parallel": "tools.demo.parallel",
    "demo.progress": "tools.demo.progress",
    "demo.run": "tools.demo.command",
    "demo.settings": "tools.demo.settings",
    "demo.text": "tools.demo.text",
    "demo.train": "tools.demo.train",
    "demo.zero": "tools.demo.train_deepspeed",
    "doctor": "tools.doctor",
    "doctor.cli": "tools.doctor.cli",
    "doctor.deepspeed_config": "tools.doctor.deepspeed_config",
    "doctor.deepspeed_zero": "tools.doctor.deepspeed_zero",
    "doctor.facts": "tools.doctor.environment",
    "doctor.files": "tools.doctor.config_files",
    "doctor.findings": "tools.doctor.findings",
    "doctor.other_configs": "tools.doctor.huggingface_configs",
    "entry": "integrations.deepspeed.registration",
    "estimates": "engine.estimates",
    "fitness": "engine.state.validation",
    "foreign": "engine.state.foreign_entries",
    "groups": "engine.param_groups",
    "held": "engine.diagnostics.nonfinite",
    "idle": "engine.diagnostics.no_gradients",
    "integrations.logged": "monitor.merged_log",
    "integrations.settings": "integrations.advice",
    "joining": "engine.uneven_inputs",
    "kept": "engine.step_plan",
    "kernels.cache": "kernels.cpu_c_cache",
    "kernels.compiler": "kernels.cpu_c_compiler",
    "kernels.gpu": "kernels.triton_launch",
    "kernels.library": "kernels.cpu_c_library",
    "kernels.memory": "kernels.memory_checks",
    "kernels.native": "kernels.cpu_c",
    "kernels.protected": "kernels.write_protection",
    "kernels.rounding": "kernels.stochastic_rounding",
    "kernels.specs": "kernels.signatures",
    "kernels.taming": "kernels.overflow_guard",
    "kernels.triton_step": "kernels.triton_kernel",
    "kernels.work": "kernels.tensor_task",
    "layout": "comm.communicator",
    "log_every": "engine.log_every",
    "lots": "engine.option_sets",
    "methods.scratch": "methods.ops",
    "named": "engine.named_step_sizes",
    "optimizer": "engine.optimizer",
    "overflow": "engine.amp_overflow",
    "own_group": "comm.process_group",
    "pace": "comm.model_pace",
    "placing": "engine.placing",
    "plain": "options.fields",
    "reading": "files.bounded_read",
    "reduce": "comm.async_all_reduce",
    "released": "checkpoint.released_formats",
    "restored": "integrations.deepspeed.universal_restore",
    "roster": "engine.members",
    "scalars": "engine.estimate_state",
    "scaling": "engine.amp",
    "state": "engine.state.param_state",
    "state_dict": "engine.state.state_dict",
    "step_size": "engine.step_size",
    "sums": "engine.local_step",
    "sweep": "engine.local_step",
    "to_universal": "integrations.deepspeed.universal_convert",
    "trust": "files.ownership",
    "window": "engine.step_window",
    "witness": "comm.gradient_witness",
    "zero_checkpoint": "integrations.deepspeed.zero_files",
}
"""Old name -> new name, both inside dadapt_dist."""


class MovedPaths:
    """Finder and loader of the old paths: an entry of sys.meta_path that answers for names in `MOVED` alone."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for an old path; None for every other name, after one look into a dict."""
        parent, _, child = name.partition(".")
        if parent != PACKAGE or child not in MOVED:
            return None
        return ModuleSpec(name, MovedPaths)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Let Python make an empty module; `exec_module` puts the real one in its place."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Warn, import the new path, and make it what the old name means in sys.modules."""
        name = module.__name__
        new = f"{PACKAGE}.{MOVED[name.partition('.')[2]]}"
        message = f"{name} has moved to {new}; the old path will be removed in dadapt-dist {GONE_IN}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        real = importlib.import_module(new)
        has_children = any(old.startswith(f"{name.partition('.')[2]}.") for old in MOVED)
        if has_children and not hasattr(real, "__path__"):
            real = _as_package(module, real)
        sys.modules[name] = real


def _as_package(module: ModuleType, real: ModuleType) -> ModuleType:
    """A package that looks its names up in `real`: for an old package that has become a module."""

    def look_up(name: str) -> Any:
        return getattr(real, name)

    module.__dict__.update(__path__=[], __doc__=real.__doc__, __getattr__=look_up)
    return module


def install() -> None:
    """Put the finder first on sys.meta_path, before the one of files: `dadapt_dist.bench.cli` must not load twice."""
    if MovedPaths not in sys.meta_path:
        sys.meta_path.insert(0, MovedPaths)
