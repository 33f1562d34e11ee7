"""Train one rank of a configuration, and report what it saw; the judge compares.

Nothing is compared here, and nothing that a rank does depends on what it sees.
"""

import copy
import io
import itertools
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.classes import ALL, WITH_D
from tests.helpers.collectives import reduces

from .config import FSDP1, Config, Group, draw, some_names
from .placing import Job, forget_meshes, local
from .problem import Problem

SCALE = 2.0**10
APART = "the ranks have different options"
OTHERS = {"n": 3, "t": torch.ones(2)}
_groups_made = itertools.count(1)


@dataclass
class Seen:
    """What a rank saw.

    d: step -> estimate -> the bits of d; reduces: step -> of the optimizer's own; raised: steps that raised NonFiniteError;
    values: (numbers, values) of the parameters at the end of each leg; wrong: what a rank can tell by itself.
    """

    d: dict[int, dict[str, str]] = field(default_factory=dict)
    reduces: dict[int, int] = field(default_factory=dict)
    raised: list[int] = field(default_factory=list)
    values: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)
    steps: int = 0
    wrong: list[str] = field(default_factory=list)


def run(seed: int, without: tuple[str, ...], pending: frozenset[str], legs: tuple[int, ...], folder: str) -> Seen:
    """Train the given legs of a configuration on this rank."""
    config, seen = draw(seed, without, pending), Seen()
    with warnings.catch_warnings(), errors_noted(seen, APART if config.apart else "\0"):
        warnings.simplefilter("ignore")  # the frameworks' own
        logging.getLogger("torch").setLevel(logging.ERROR)
        warnings.filterwarnings("error", module=r"dadapt_dist(\.|$)")
        train(config, seen, legs, folder)
    return seen


@contextmanager
def errors_noted(seen: Seen, expected: str) -> Iterator[None]:
    """Keep the library's log from the terminal; an error in it is wrong, but for the one that is expected."""
    logger, handler = logging.getLogger("dadapt_dist"), logging.Handler(logging.ERROR)
    handler.emit = lambda record: (  # type: ignore[method-assign]
        None if expected in record.getMessage() else seen.wrong.append(f"logged: {record.getMessage()}")
    )
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def train(config: Config, seen: Seen, legs: tuple[int, ...], folder: str) -> None:
    problem = Problem(config)
    saved: Any = None
    for index in legs:
        training = Training(config, index, problem, seen)
        if index:
            training.resume(saved, folder)
        last = config.legs[index + 1].first if index + 1 < len(config.legs) else config.steps
        for step in range(config.legs[index].first, last):
            training.step(step)
        if last < config.steps:
            saved = training.save(folder)
        training.end()


class Training:
    """A model under the layout of a leg, and its optimizers."""

    def __init__(self, config: Config, index: int, problem: Problem, seen: Seen) -> None:
        self.config, self.leg, self.problem, self.seen = config, config.legs[index], problem, seen
        self.rank = dist.get_rank()
        self.job = Job(config, self.leg, problem, self.leg.first)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=config.scaler)
        self.make(self.leg.first)

    # ---------------------------------------------------------------- optimizers

    def make(self, step: int, *, also: bool = False) -> None:
        """New optimizers, with the groups that are there before this step; also: and those of this step."""
        config = self.config
        shared = dict(config.shared)
        if config.own_group:
            shared["process_group"] = dist.new_group()
        if self.job.cut:
            shared["copies"] = self.job.copies
        options = {**config.options, **self.dtypes, "backend": config.backend}
        if config.optimizers > 1:
            options["step_size"] = dd.StepSize(**shared)
        else:
            options |= shared
        self.groups: list[tuple[Group, dict[str, Any]]] = []
        self.optimizers: list[dd.LearningRateFree] = []
        for number in range(config.optimizers):
            mine = [g for g in config.groups if g.optimizer == number and (g.added < step + also or g.added == 0)]
            optimizer = ALL[config.method]([self.torch_group(g, step) for g in mine], **options)
            self.optimizers.append(optimizer)
            self.groups += zip(mine, optimizer.param_groups, strict=True)
            if config.foreign:
                optimizer.state["others"] = copy.deepcopy(OTHERS)
                for p in optimizer.param_groups[0]["params"]:
                    optimizer.state[p]["others"] = copy.deepcopy(OTHERS)

    @property
    def dtypes(self) -> dict[str, Any]:
        return {name: getattr(torch, dtype) for name, dtype in self.config.dtypes.items()}

    @property
    def step_size(self) -> dd.StepSize:
        return self.optimizers[0].step_size

    def torch_group(self, group: Group, step: int) -> dict[str, Any]:
        if self.leg.layout == "fsdp1 flat":
            found = [(piece.name, piece.p) for piece in self.job.pieces]
        else:
            pieces = self.job.by_name
            found = [(n, pieces[n].p) for n in some_names(self.config, self.leg, self.rank, group)]
        params = found if self.config.named else [p for _, p in found]
        return {"params": params, **group.options, "lr": self.config.lr(step, group)}

    # ---------------------------------------------------------------- one step

    def step(self, step: int) -> None:
        config = self.config
        self.add_groups(step)
        for piece in self.job.pieces:
            if config.frozen.get(piece.name, -1) == step:
                piece.p.requires_grad_(True)
        for group, live in self.groups:
            live["lr"] = config.lr(step, group)
        if config.apart and step in config.apart and dist.get_rank() == 0:
            for group, live in self.groups:
                live["growth_rate"] = self.growth_rate(group) if step == config.apart[1] else 1.5
        if config.event and config.event[1] == step:
            getattr(self, config.event[0])(step)
        self.take(step)
        if step not in config.unread:
            self.seen.d[step] = self.ds()

    def growth_rate(self, group: Group) -> float:
        return {"growth_rate": math.inf, **self.config.options, **group.options}["growth_rate"]

    def add_groups(self, step: int) -> None:
        for group in self.config.groups:
            if group.added == step and step > 0:
                optimizer = self.optimizers[group.optimizer]
                optimizer.add_param_group(self.torch_group(group, step))
                self.groups.append((group, optimizer.param_groups[-1]))

    def take(self, step: int) -> None:
        config = self.config
        for p in self.params:
            if config.reuse and p.grad is not None and not self.leg.real:
                local(p.grad).zero_()
            else:
                p.grad = None
        self.scaler.scale(torch.zeros(()))  # it makes its scale when it is first asked
        self.job.backward(step, self.scaler.get_scale())
        self.clip()
        with self.counting(step):
            try:
                with self.step_size.window() if config.windows and config.optimizers > 1 else nullcontext():
                    for optimizer in self.optimizers:
                        self.move(optimizer)
            except dd.NonFiniteError:
                self.seen.raised.append(step)
        try:
            self.scaler.update()
        except AssertionError:  # it saw no gradient, has nothing to update, and would not take another step
            self.scaler._per_optimizer_states.clear()

    @property
    def params(self) -> list[Tensor]:
        return [piece.p for piece in self.job.pieces]

    def move(self, optimizer: dd.LearningRateFree) -> None:
        if self.config.scaler:
            self.scaler.step(optimizer)
        elif self.config.closure:
            if optimizer.step(lambda: 17.0) != 17.0:
                self.seen.wrong.append("step(closure) did not return the closure's loss")
        else:
            optimizer.step()

    def clip(self) -> None:
        if self.config.scaler and (self.config.clip is not None or self.config.needs_all_gradients):
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.params, self.config.clip)

    @contextmanager
    def counting(self, step: int) -> Iterator[None]:
        if not self.config.counted:
            yield
            return
        with CommDebugMode() as communication:
            yield
        self.seen.reduces[step] = reduces(communication.get_comm_counts())

    def ds(self) -> dict[str, str]:
        names, has_d = self.step_size._scalars.names, self.config.method in WITH_D
        return {name: float(self.step_size._value(name, "d") if has_d else math.nan).hex() for name in names}

    # ---------------------------------------------------------------- events before a step

    def deepcopy(self, step: int) -> None:
        """Go on with a copy of parameters and optimizers."""
        self.job.pieces, self.optimizers = copy.deepcopy((self.job.pieces, self.optimizers))
        self.link_groups()

    def reload(self, step: int) -> None:
        """Load the optimizers' own state into them."""
        for optimizer in self.optimizers:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        self.link_groups()

    def recover(self, step: int) -> None:
        """Make the process group anew and go on from a checkpoint; on the last rank all optimizers are new."""
        with_reduce = self.config.seed % 2 == 0
        if not with_reduce:
            self.step_size._finish()
        saved = self.packed()
        dist.barrier()
        dist.destroy_process_group()
        forget_meshes()
        start_again()
        replaced = dist.get_rank() == dist.get_world_size() - 1 or self.leg.layout != "copies"
        if replaced:
            self.job = Job(self.config, self.leg, self.problem, step)
            self.make(step, also=True)
        self.unpack(saved)

    def left_out(self, step: int) -> None:
        """The last rank takes no part in a step; then all go on from a checkpoint of before."""
        saved = self.packed()
        if dist.get_rank() < dist.get_world_size() - 1:
            self.job.backward(step, 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
        self.unpack(saved)

    @torch.no_grad()
    def replace(self, step: int) -> None:
        """Other parameters take the place of all, and their state with it."""
        new = {piece.p: nn.Parameter(piece.p.detach().clone(), piece.p.requires_grad) for piece in self.job.pieces}
        for piece in self.job.pieces:
            piece.p = new[piece.p]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [new[p] for p in group["params"]]
            for p in [p for p in optimizer.state if p in new]:
                optimizer.state[new[p]] = optimizer.state.pop(p)

    def go_on_alone(self, step: int) -> None:
        """The process group ends, perhaps with a reduce under way, and every rank goes on with its copy."""
        dist.barrier()
        dist.destroy_process_group()
        forget_meshes()

    def link_groups(self) -> None:
        """Find the live groups again."""
        config = self.config
        there = {number: iter(optimizer.param_groups) for number, optimizer in enumerate(self.optimizers)}
        self.groups = [
            (g, live) for g in config.groups for live in [next(there[g.optimizer], None)] if live is not None
        ]

    # ---------------------------------------------------------------- checkpoints

    def packed(self) -> Any:
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        values = [piece.local.clone() for piece in self.job.pieces]
        if any(isinstance(t, DTensor) for s in states for entry in s["state"].values() for t in entry.values()):
            return copy.deepcopy((states, values))
        file = io.BytesIO()
        torch.save((states, values), file)
        return torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    @torch.no_grad()
    def unpack(self, saved: Any) -> None:
        for piece, values in zip(self.job.pieces, saved[1], strict=True):
            piece.local.copy_(values)
        for optimizer, state in zip(self.optimizers, saved[0], strict=True):
            optimizer.load_state_dict(state)
        self.link_groups()

    def save(self, folder: str) -> Any:
        if self.config.through != "dcp":
            return self.packed()
        model, optimizer = get_state_dict(self.job.module, self.optimizers, options=self.flat)
        dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=folder)
        return None

    def resume(self, saved: Any, folder: str) -> None:
        if self.config.through != "dcp":
            self.unpack(saved)
            return
        model, optimizer = get_state_dict(self.job.module, self.optimizers, options=self.flat)
        checkpoint = {"model": model, "optimizer": optimizer}
        dcp.load(checkpoint, checkpoint_id=folder)
        set_state_dict(
            self.job.module, self.optimizers, model_state_dict=checkpoint["model"],
            optim_state_dict=checkpoint["optimizer"], options=self.flat,
        )  # fmt: skip
        self.link_groups()

    @property
    def flat(self) -> StateDictOptions:
        # torch does not find the groups where FSDP1 leaves ranks without a shard of some parameter.
        flat = self.config.seed % 2 == 0 or bool(self.config.layouts & FSDP1)
        return StateDictOptions(flatten_optimizer_state_dict=flat)

    def end(self) -> None:
        """Note what there is at the end of a leg."""
        if not dist.is_initialized():
            start_again()
        states = [s for o in self.optimizers for s in o.state.values()]
        seen, buffers = self.seen, [t for s in states for t in s.items() if t[0] not in ("others", *OTHERS)]
        if self.config.foreign:
            self.look_for_others()
        self.step_size._finish()
        seen.values.append(self.job.values())
        seen.steps = self.step_size.steps
        for name, t in buffers:
            if name != "pre_grad" and not torch.isfinite(local(t)).all():  # Adan's: NaN where no gradient was seen
                seen.wrong.append(f"buffer {name} is not finite")
        for name, value in self.step_size._scalars.values.items():
            if not torch.isfinite(value).all():
                seen.wrong.append(f"scalar {name} is {value.tolist()}")

    def look_for_others(self) -> None:
        for optimizer in self.optimizers:
            params = optimizer.param_groups[0]["params"]
            there = [optimizer.state.get("others"), *(optimizer.state[p].get("others") for p in params)]
            if any(o is None or o["n"] != OTHERS["n"] or not torch.equal(o["t"], OTHERS["t"]) for o in there):
                self.seen.wrong.append(f"others' entries became {there}")


def start_again() -> None:
    """A new default group among the same processes."""
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", store=dist.PrefixStore(f"again {next(_groups_made)}", store), rank=rank, world_size=size,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
