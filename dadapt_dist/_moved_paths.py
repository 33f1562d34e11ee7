"""Import paths of release 0.1 that modules have left; each still imports, with a DeprecationWarning, until 0.3.0.

An old path gives the very module of the new one, so that classes keep their identity and pickles load. A path that nobody imports
costs nothing: Python asks the finder here only for names that a package of ours has no file for.
"""

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __package__
GONE_IN = "0.3.0"
_TABLE = """
: api=optimizers
checkpoint: released=from_released
comm: layout=communicator own_group=process_group pace=model_pace reduce=async_all_reduce witness=gradient_witness
engine: agreement=rank_agreement arrival=step_pieces compiled=torch_compile estimates groups=param_groups joining=uneven_inputs
engine: kept=step_plan log_every lots=option_sets named=named_step_sizes optimizer overflow=skipped_steps placing roster=members
engine: scalars=estimate_state scaling=amp step_size sums=local_step sweep=local_step window=local_step
engine.diagnostics: advice advice_texts company=separate_estimates held=nonfinite idle=no_gradients
engine.state: adoption=replaced_groups buffers fitness=validation foreign=foreign_entries state=param_state state_dict
files: reading=bounded_read trust=ownership
integrations: adapters.accelerate_limits=accelerate integrations.settings=advice
integrations.deepspeed: adapters.deepspeed=internals adapters.deepspeed_limits=unsupported adapters.zero entry=registration
integrations.deepspeed: restored=universal_restore to_universal=universal_convert zero_checkpoint=zero_files
kernels: kernels.cache=cpu_c_cache kernels.compiler=cpu_c_compiler kernels.gpu=triton_launch kernels.library=cpu_c_library
kernels: kernels.memory=memory_checks kernels.native=cpu_c kernels.protected=memory_checks
kernels: kernels.rounding=stochastic_rounding kernels.taming=overflow_guard
kernels: kernels.triton_step=triton_kernel kernels.work=tensor_task
methods: kernels.specs=base methods.scratch=ops
monitor: integrations.logged=values monitor.log_values=values
options: plain=fields
sharding: adapters=registry adapters.base=shard adapters.ddp=replicated adapters.dtensor adapters.fsdp1
sharding: adapters.living=live_objects adapters.plain=replicated claims=rank_claims coverage=replicas
tools: bench cli demo doctor
tools.bench: bench.cli bench.memory bench.network=emulated_network bench.peers bench.problems=shapes bench.report bench.scale
tools.bench: bench.step bench.sync=overlap
tools.demo: demo.checkpoint demo.grid demo.launch=elastic demo.model demo.parallel demo.progress demo.run=command demo.settings
tools.demo: demo.text demo.train demo.zero=train_deepspeed
tools.doctor: doctor.cli doctor.deepspeed_config doctor.deepspeed_zero doctor.facts=environment doctor.files=config_files
tools.doctor: doctor.findings doctor.other_configs=huggingface_configs
"""
# Folder of today: the old names that lead into it, each with "=" and the new name where that is another.
MOVED = {
    old: f"{folder}.{new or old.rpartition('.')[2]}".lstrip(".")
    for folder, _, entries in (line.partition(": ") for line in _TABLE.strip("\n").splitlines())
    for old, _, new in (entry.partition("=") for entry in entries.split())
}
"""Old name -> new name, both inside dadapt_dist."""
OLD_NAMES = "<old names of dadapt_dist>"
"""Stands on the `__path__` of the packages that had modules which moved."""


class MovedPaths:
    """Finder and loader of the old paths, for the entry `OLD_NAMES` of a package's `__path__`."""

    @staticmethod
    def find_spec(name: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for an old path, None for every other name."""
        return ModuleSpec(name, MovedPaths) if name.partition(".")[2] in MOVED else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Let Python make an empty module; `exec_module` puts the real one in its place."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Warn, import the new path, and make it what the old name means in sys.modules."""
        name = module.__name__
        old = name.partition(".")[2]
        new = f"{PACKAGE}.{MOVED[old]}"
        message = f"{name} has moved to {new}; the old path will be removed in dadapt-dist {GONE_IN}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        real = importlib.import_module(new)
        if any(other.startswith(f"{old}.") for other in MOVED):
            if not hasattr(real, "__path__"):
                real = _as_package(module, real)
            if OLD_NAMES not in real.__path__:
                real.__path__.insert(0, OLD_NAMES)  # before the files: `dadapt_dist.bench.cli` must not load twice
        sys.modules[name] = real


def _as_package(module: ModuleType, real: ModuleType) -> ModuleType:
    """A package that looks its names up in `real`: for an old package that has become a module."""

    def look_up(name: str) -> Any:
        return getattr(real, name)

    module.__dict__.update(__path__=[], __doc__=real.__doc__, __getattr__=look_up)
    return module


def _finder(entry: str) -> type[MovedPaths]:
    """The finder of an entry of a `__path__`, as sys.path_hooks asks for it."""
    if entry != OLD_NAMES:
        raise ImportError
    return MovedPaths


sys.path_hooks.append(_finder)
