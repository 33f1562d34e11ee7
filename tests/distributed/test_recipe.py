"""Check the recipe where ranks differ: other options, other stages, one rank that overflows, and sizes over many ranks."""

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.amp import GradScaler
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import dadapt_dist as dd
from dadapt_dist.comm import communicator
from dadapt_dist.engine import placing
from tests.helpers.collectives import reduces
from tests.helpers.layout_runs import of_oracle
from tests.helpers.models import Tiny, batch, gradients, loss_of
from tests.helpers.oracles import ORACLES
from tests.helpers.placed import tensor

AUTO: dict[str, Any] = {"recipe": "auto", "total_steps": 60, "rms_cap": 0.02, "d0": 1e-3}
STEPS = 12


def outcome(p: nn.Parameter, name: str, options: dict[str, Any], change: dict[str, Any] | None = None) -> Any:
    """d after some steps, or the error and whether the parameter is as it was before the step that raised it."""
    optimizer: Any = None
    before = p.detach().clone()
    try:
        optimizer = dd.Prodigy([(name, p)], **options)
        for step in range(6):
            if step == 3:
                optimizer.param_groups[0].update(change or {})
            before = p.detach().clone()
            p.grad = tensor(name, 6, step=step)
            optimizer.step()
    except (ValueError, dd.PlacementError) as error:
        return f"{type(error).__name__}: {error}", torch.equal(p, before)
    return optimizer.d


def apart(options: list[dict[str, Any]], change: dict[str, Any] | None = None, *, stages: bool = False) -> Any:
    """Each rank has its own options; stages: and parameters of its own."""
    rank = dist.get_rank()
    name = f"w{rank}" if stages else "w"
    return outcome(nn.Parameter(tensor(name, 6).clone()), name, options[rank], change)


PARTS = {
    "recipe": None,
    "exact_bias_correction": True,
    "same_weights": True,
    "length_scaling": True,
    "betas": (0.8, 0.999),
}


@pytest.mark.parametrize(
    ("other", "stages", "says"),
    [
        ({"rms_cap": 0.1}, False, "groups that differ in rms_cap:"),
        ({"weight_decay": 0.1}, False, "groups that differ in weight_decay:"),
        ({"total_steps": 61}, False, "constants .*total_steps"),
        ({"total_steps": None}, False, "constants .*total_steps"),
        ({"recipe": None, "rms_cap": None}, False, "constants .*recipe"),
        ({**PARTS, "rms_cap": None}, False, "constants .*whether any group has a rms_cap"),
        (PARTS, False, "groups that differ in recipe:"),
        ({"total_steps": 61}, True, "constants .*total_steps"),
        ({**PARTS, "same_weights": False}, True, "constants .*same_weights"),
        ({**PARTS, "length_scaling": False}, True, "constants .*length_scaling"),
        ({**PARTS, "rms_cap": None}, True, "constants .*whether any group has a rms_cap"),
    ],
    ids=str,
)
def test_ranks_with_other_options_are_named_on_all(other: dict[str, Any], stages: bool, says: str, pools: Any) -> None:
    for found in pools(2).run(apart, [AUTO, {**AUTO, **other}], stages=stages):
        text, unmoved = found
        assert text.startswith("PlacementError")
        assert unmoved
        assert re.search(says, text), text


def test_stages_may_have_caps_of_their_own(pools: Any) -> None:
    first, second = pools(2).run(apart, [AUTO, {**AUTO, "rms_cap": 0.5}], stages=True)
    assert first == second > 1e-3


@pytest.mark.parametrize("change", [{"recipe": None}, {"total_steps": 7}, {"use_bias_correction": True}], ids=str)
def test_what_is_changed_on_all_ranks_raises_on_all_before_anything_moves(change: dict[str, Any], pools: Any) -> None:
    for text, unmoved in pools(2).run(apart, [AUTO, AUTO], change):
        assert text.startswith("ValueError")
        assert next(iter(change)) in text
        assert unmoved


def test_a_cap_that_comes_too_late_raises_on_all(pools: Any) -> None:
    plain = {"d0": 1e-3}
    for text, unmoved in pools(2).run(apart, [plain, plain], {"rms_cap": 0.1}):
        assert "rms_cap" in text
        assert unmoved


# -------------------------------------------------------------------- one rank overflows


def overflow(**options: Any) -> Any:
    """d, parameters and reduces of each step; in step 4 the scaler of rank 1 alone finds an infinity."""
    model = Tiny()
    ddp = DistributedDataParallel(model)
    optimizer, scaler = dd.Prodigy(model.parameters(), **AUTO, **options), GradScaler("cpu", init_scale=2.0**10)
    ds, counts = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(ddp, *batch(step))).backward()
        if step == 4 and dist.get_rank() == 1:
            next(p.grad for p in model.parameters() if p.grad is not None).view(-1)[0] = float("inf")
        with CommDebugMode() as communication, suppress(dd.NonFiniteError):
            scaler.step(optimizer)
        counts.append(reduces(communication.get_comm_counts()))
        scaler.update()
        ds.append(float(optimizer.d).hex())
    return ds, [p.detach() for p in model.parameters()], counts, float(optimizer.param_groups[0]["updates"])


def test_an_overflow_on_one_rank_leaves_the_whole_step_out(pools: Any) -> None:
    oracle = ORACLES["prodigy"](list(Tiny().parameters()), **of_oracle(AUTO))
    for step in range(STEPS):
        found = gradients(Tiny(), oracle.params, step)
        if step != 4:
            oracle.step(found)
    for ds, params, counts, updates in pools(2).run(overflow):
        assert float.fromhex(ds[-1]) == pytest.approx(oracle.d, rel=1e-10)
        assert oracle.d > 2e-3
        assert updates == STEPS - 1
        assert counts[1:] == [2] * (STEPS - 1)  # the sums and squares, and whether to leave the step out
        for p, right in zip(params, oracle.params, strict=True):
            assert (p - right).norm() <= 1e-10 * right.norm()


# -------------------------------------------------------------------- sizes over many ranks


def measured_anew() -> bool:
    """Are the sizes of many tensors, measured after a load, those that the reduces of the run have brought, to the bit?

    Over many ranks, and on GPUs, the order in which numbers are added up depends on their place: so here too.
    """

    def made() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(13, 13) for _ in range(20))).double()
        fully_shard(model)
        return model, dd.Prodigy(model.parameters(), **AUTO)

    (model, optimizer), (other, loaded) = made(), made()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(communicator, "ONE_ROUND_RANKS", 1)
        for number in range(3):
            optimizer.zero_grad()
            model(tensor("x", 8, 13, step=number)).square().mean().backward()
            optimizer.step()
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(communicator, "ONE_ROUND_RANKS", 1)
        placing.place(loaded.step_size)
    return torch.equal(loaded.step_size._rms.total, optimizer.step_size._rms.total)


def test_sizes_are_measured_to_the_bit_as_a_step_adds_them_up(pools: Any) -> None:
    assert pools(4).run(measured_anew) == [True] * 4


def slices(*, named: bool) -> list[str]:
    """Uneven slices of a tensor as plain tensors, beside a tensor that both ranks have."""
    rank = dist.get_rank()
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    whole = {"w": tensor("w", 8, 3), "b": tensor("b", 4)}
    params = {"w": nn.Parameter(whole["w"][mine].clone()), "b": nn.Parameter(whole["b"].clone())}
    given: Any = [*params.items()] if named else [*params.values()]
    optimizer = dd.Prodigy(given, copies=lambda p: 1 if p is params["w"] else 2, **{**AUTO, "rms_cap": 1e-3})
    ds = []
    for step in range(STEPS):
        params["w"].grad, params["b"].grad = tensor("w", 8, 3, step=step)[mine].clone(), tensor("b", 4, step=step)
        optimizer.step()
        ds.append(float(optimizer.d).hex())
    return ds


@pytest.mark.parametrize("named", [True, False])
def test_slices_that_the_user_declares_are_one_tensor(named: bool, pools: Any) -> None:
    oracle = ORACLES["prodigy"]([tensor("w", 8, 3), tensor("b", 4)], **of_oracle({**AUTO, "rms_cap": 1e-3}))
    right = []
    for step in range(STEPS):
        oracle.step([tensor("w", 8, 3, step=step), tensor("b", 4, step=step)])
        right.append(oracle.d)
    assert right[-1] > 1.5e-3
    first, second = pools(2).run(slices, named=named)
    assert first == second
    assert [*map(float.fromhex, first)] == pytest.approx(right, rel=1e-10)


class Experts(nn.Module):
    """A layer and two experts, of which a step uses those that it names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.experts = nn.Linear(5, 7).double(), nn.ModuleList(nn.Linear(7, 3).double() for _ in range(2))

    def forward(self, x: torch.Tensor, used: tuple[int, ...]) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        return sum((self.experts[i](hidden) for i in used), torch.zeros((), dtype=x.dtype))


def rarely_used(layout: str) -> list[tuple[bool, bool]]:
    """Of each step that put back: whether the weights were where they started before it, and after it."""
    model = Experts()
    start = [p.detach().clone() for p in model.parameters()]
    wrapped: Any = model
    if layout == "fsdp2":
        for part in (model.first, *model.experts, model):
            fully_shard(part)
    elif layout == "ddp":
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = dd.Prodigy(wrapped.parameters(), recipe="auto", total_steps=40)

    def is_at_start() -> bool:
        whole = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
        return all(torch.equal(p, x) for p, x in zip(whole, start, strict=True))

    found, generator = [], torch.Generator().manual_seed(1 + dist.get_rank())
    for _ in range(10):
        back = bool(optimizer.d) and float(optimizer.param_groups[0]["probe_phase"]) == 2
        x, y = (torch.randn(8, n, dtype=torch.float64, generator=generator) for n in (5, 3))
        wrapped.zero_grad()
        (wrapped(x, (0,) if back else (0, 1)) - y).square().mean().backward()
        before = is_at_start()
        optimizer.step()
        if back:
            assert all(p.grad is None for p in model.experts[1].parameters())
            found.append((before, is_at_start()))
    return found


@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_an_expert_that_is_not_used_in_the_step_that_puts_back_goes_back_too(layout: str, pools: Any) -> None:
    for found in pools(2).run(rarely_used, layout):
        assert found == [(False, True)]
