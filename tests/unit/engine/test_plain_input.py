"""Check that option values of any class that can be read, and frozen parameters of any dtype, are accepted."""

import io
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.two_tensor import TwoTensor

import dadapt_dist as dd
from dadapt_dist.methods import METHODS as registered
from tests.helpers.classes import ALL, first_d
from tests.helpers.pool import WorkerPool

METHODS = list(ALL)
TWO_BETAS = [  # those that may differ between the groups of one estimate
    name
    for name, method in registered.items()
    if len(method.options.defaults().get("betas", ())) == 2
    and "betas" not in (*method.estimate_options, *method.fixed_options)
]
PLAIN = (float, int, bool, str, type(None))
# Tensors in a group, numbers when saved.
SCALARS = {"k", "held", "started", "steps", "updates"}.union(
    *(m().scalars(m.options.defaults()) for m in registered.values())
)


class Listed(Sequence[Any]):
    """A sequence of a config's own, as omegaconf's ListConfig."""

    def __init__(self, *members: Any) -> None:
        self._members = members

    def __getitem__(self, index: Any) -> Any:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.full(shape, 0.5)) for shape in ((3, 2), (4,))]


def seen(optimizer: dd.LearningRateFree) -> tuple[str, ...]:
    """d to its last bit, NaN as a word, and the sums of what trains."""
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    return str(optimizer.d), *(str(p.detach().sum().item()) for p in params)


def train(optimizer: dd.LearningRateFree, steps: int = 5) -> tuple[str, ...]:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = p.detach() - 3.0
        optimizer.step()
    return seen(optimizer)


def saved_and_loaded(optimizer: dd.LearningRateFree) -> dict[str, Any]:
    """The state dict after a way through a file that holds nothing but tensors and plain python."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def assert_plain(group: dict[str, Any], *, but: tuple[str, ...] = (), live: bool = False) -> None:
    for key, value in group.items():
        members = value if isinstance(value, tuple) else (value,)
        plain = all(type(member) in PLAIN for member in members)
        assert key in ("params", *but) or plain or (live and key in SCALARS), (key, type(value))


HALVES = [
    0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5]), np.array([[0.5]]), torch.tensor(0.5),
    torch.full((1,), 0.5), torch.full((1, 1), 0.5, dtype=torch.bfloat16), nn.Parameter(torch.tensor(0.5)), Fraction(1, 2),
    Decimal("0.5"),
]  # fmt: skip
ONES = [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.ones(1, dtype=torch.int16), True + 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("half", HALVES, ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}")
def test_numbers_of_any_class_train_save_and_load(method: str, half: Any) -> None:
    options = {"lr": half, "weight_decay": half, "layer_scale": half, **dict.fromkeys(first_d(method, 0.5), half)}
    plain = dict.fromkeys(options, 0.5)
    found, wanted = (ALL[method](weights(), **given) for given in (options, plain))
    assert train(found) == train(wanted)
    assert_plain(found.param_groups[0], but=("lr",), live=True)
    loaded = saved_and_loaded(found)
    assert_plain(loaded["param_groups"][0])
    found.load_state_dict(loaded)
    assert train(found) == train(wanted)
    for a, b in zip(found.param_groups[0]["params"], wanted.param_groups[0]["params"], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("one", ONES, ids=lambda value: type(value).__name__)
def test_whole_numbers_of_any_class_are_taken(one: Any) -> None:
    optimizer = dd.Prodigy(weights(), lr=one, slice_p=one, freeze_after=one * 3, growth_rate=one, d_coef=one)
    assert optimizer.step_size.freeze_after == 3
    assert type(optimizer.step_size.freeze_after) is int
    assert type(optimizer.param_groups[0]["slice_p"]) is int
    train(optimizer)
    assert_plain(saved_and_loaded(optimizer)["param_groups"][0])
    assert dd.DAdaptAdam(weights(), log_every=np.int32(2), growth_rate=np.float32(math.inf)).d == 1e-6
    assert dd.StepSize(freeze_after=1e4).freeze_after == 10000  # type: ignore[arg-type]


BETAS = [[0.9, 0.99], (0.9, np.float64(0.99)), np.array([0.9, 0.99]), torch.tensor([0.9, 0.99], dtype=torch.float64),
         Listed(0.9, 0.99), Listed(Fraction(9, 10), Decimal("0.99"))]  # fmt: skip


@pytest.mark.parametrize("betas", BETAS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("method", TWO_BETAS)
def test_betas_may_be_any_sequence_given_in_a_group_or_assigned_later(method: str, betas: Any) -> None:
    first, second = weights()
    groups = [{"params": [first], "betas": betas}, {"params": [second]}]
    optimizer, wanted = ALL[method](groups), ALL[method](weights(), betas=(0.9, 0.99))
    optimizer.param_groups[1]["betas"] = betas
    assert train(optimizer) == train(wanted)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.99)] * 2
    for group in saved_and_loaded(optimizer)["param_groups"]:
        assert_plain(group)


def test_a_yaml_file_gives_betas_and_a_step_size_that_is_shared_by_name() -> None:
    text = "{lr: 1.0, betas: [0.9, 0.99], beta3: null, d0: 1.0e-3, recipe: null, estimates: null, step_size: from yaml}"
    options = yaml.safe_load(text)
    first, second = (dd.Prodigy([p], **options) for p in weights())
    of_own = dd.Prodigy([weights()[0]], **{**options, "betas": Listed(*options["betas"]), "step_size": "another"})
    assert first.step_size is second.step_size is not of_own.step_size
    assert first.param_groups[0]["betas"] == of_own.param_groups[0]["betas"] == (0.9, 0.99)
    for _ in range(5):
        for optimizer in (first, second):
            for p in optimizer.param_groups[0]["params"]:
                p.grad = p.detach() - 3.0
        first.step()
        second.step()
    assert first.d == second.d > 1e-3
    many = yaml.safe_load("{estimates: [text, image]}")
    assert dd.Prodigy([{"params": weights(), "estimate": "image"}], **many).d == {"text": 1e-6, "image": 1e-6}


@pytest.mark.parametrize("value", [np.bool_(True), np.array(True), torch.tensor(True)], ids=lambda v: type(v).__name__)
def test_flags_of_numpy_and_torch_are_taken(value: Any) -> None:
    optimizer = dd.Prodigy(weights(), use_bias_correction=value, safeguard_warmup=value, maximize=value)
    optimizer.param_groups[0]["decouple"] = value
    group = optimizer.state_dict()["param_groups"][0]
    assert all(group[name] is True for name in ("use_bias_correction", "safeguard_warmup", "maximize", "decouple"))
    assert_plain(saved_and_loaded(optimizer)["param_groups"][0])


def test_what_is_assigned_later_is_kept_plain_and_checked() -> None:
    optimizer = dd.Prodigy(weights())
    group = optimizer.param_groups[0]
    group["lr"] = np.float32(0.5)
    group.update(weight_decay=np.float64(0.1), eps=torch.tensor(1e-6))
    group.setdefault("initial_lr", np.float64(1.0))
    group |= {"mine": np.int64(3), "max_lr": np.float32(1.0)}
    train(optimizer)
    assert_plain(group, but=("initial_lr", "mine", "max_lr"), live=True)
    assert_plain(saved_and_loaded(optimizer)["param_groups"][0])
    weights_before = [p.detach().clone() for p in group["params"]]
    for name, value in (("betas", (0.9,)), ("weight_decay", -1.0), ("eps", "1e-8"), ("decouple", 2), ("slice_p", 0)):
        right, group[name] = group[name], value
        for what in (optimizer.step, optimizer.step, optimizer.state_dict):
            with pytest.raises(ValueError, match=rf"Prodigy group 0: {name}=.*must be .*\. \w"):
                what()
        group[name] = right
    assert all(map(torch.equal, group["params"], weights_before))
    train(optimizer)


def test_an_lr_that_is_a_tensor_follows_its_owner() -> None:
    lr = torch.ones(1)
    optimizer = dd.Prodigy(weights(), lr=lr)
    lr.fill_(0.25)
    assert optimizer.effective_lr == [0.25e-6]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(optimizer, 1)
    scheduler.step()
    assert float(lr) == optimizer.param_groups[0]["lr"] == 0.125


def test_an_lr_on_a_device_is_refused_for_what_it_costs() -> None:
    with pytest.raises(ValueError, match=r"lr=.*is on meta, where reading it.*every step wait.*CPU\.$"):
        dd.Prodigy(weights(), lr=torch.ones((), device="meta"))


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 1j, b"1", "0.5", np.str_("0.5"), [1.0], {}, torch.ones(2)]
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    for name in ("lr", "eps", "weight_decay", "d0"):
        with pytest.raises(ValueError, match=rf"{name}=.*must be a number"):
            dd.Prodigy(weights(), **{name: value})


def test_an_lr_that_no_float_holds_or_that_is_sparse_is_refused() -> None:
    optimizer = dd.Prodigy([torch.nn.Parameter(torch.ones(2))])
    [p] = optimizer.param_groups[0]["params"]
    p.grad = torch.ones(2)
    optimizer.param_groups[0]["lr"] = 10**400
    with pytest.raises(ValueError, match="lr=1000"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))
    with pytest.raises(ValueError, match=r"(?s)lr=tensor.*cannot be read"):
        dd.Prodigy(weights(), lr=torch.ones(1).to_sparse())


OTHERS = [
    ("dadapt_adam", "d_coef", "Prodigy, Prodigy.*"), ("dadapt_adam", "beta3", "Prodigy, Prodigy.*"),
    ("prodigy", "reps_rel", "DoG"),
    ("dog", "d0", ".*DAdaptAdaGrad, .*, Prodigy.*"), ("cocob", "growth_rate", "DAdaptAdaGrad, .*, Prodigy.*"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "owners"), OTHERS)
def test_an_option_of_other_methods_estimates_is_not_passed_over_in_silence(
    method: str, name: str, owners: str
) -> None:
    groups = [{"params": weights(), name: 0.5}, {"params": weights()}]
    with pytest.raises(ValueError, match=f"group 0: {name} is an option of {owners} alone, and would do nothing here"):
        ALL[method](groups)


def test_text_from_yaml_is_told_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"eps='1e-8' cannot be read \(str\).*YAML takes 1e-6 for text, and 1\.0e-6"):
        dd.Prodigy(weights(), eps="1e-8")  # type: ignore[arg-type]


DEFAULTS = [
    ("prodigy", "eps", -1, "1e-08"), ("dadapt_adagrad", "eps", 0, "1e-06"),
    ("dadapt_adan", "betas", (1, 1, 1), "(0.98, 0.92, 0.99)"),
    ("dadapt_lion", "betas", 3, "(0.9, 0.99)"), ("dadapt_adan", "weight_decay", -1, "0.02"), ("dadapt_sgd", "d0", 0, "1e-06"),
    ("dog", "reps_rel", 0, "1e-06"), ("cocob", "alpha", 0, "100.0"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "value", "default"), DEFAULTS)
def test_the_cure_names_the_methods_own_default(method: str, name: str, value: Any, default: str) -> None:
    class Mine(ALL[method]):  # type: ignore[misc]
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)

    for cls in (ALL[method], Mine):
        with pytest.raises(ValueError, match=name) as caught:
            cls(weights(), **{name: value})
        assert default in str(caught.value).split("must be")[1]
        optimizer = cls(weights())
        with pytest.raises(ValueError, match=name) as caught:
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], name: value})
        assert default in str(caught.value).split("must be")[1]


def test_estimates_may_be_named_by_any_sequence() -> None:
    for names in (
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        Listed("a", "b"),
        (name for name in "ab"),
        {"a": 0, "b": 0}.keys(),
    ):
        shared = dd.StepSize(names)  # type: ignore[arg-type]
        groups = [{"params": [w], "estimate": np.str_(name)} for w, name in zip(weights(), "ab", strict=True)]
        optimizer = dd.Prodigy(groups, step_size=shared)
        train(optimizer, 2)
        assert list(shared._scalars.names) == ["a", "b"]
        assert_plain(saved_and_loaded(optimizer)["param_groups"][1])
    own = dd.Prodigy([{"params": weights(), "estimate": "b"}], estimates=np.array(["a", "b"]))
    assert own.d == {"a": 1e-6, "b": 1e-6}
    each = dd.Prodigy(weights(), estimates=np.str_("per_tensor"))
    assert list(each.d) == [f"0.{i}" for i in range(len(weights()))]  # type: ignore[arg-type]


@pytest.mark.parametrize("named", [False, True])
def test_parameters_may_come_in_any_iterable(named: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    own = list(net.named_parameters() if named else net.parameters())

    def generator() -> Iterator[Any]:
        yield from own

    ways: list[Any] = [
        own,
        tuple(own),
        generator(),
        dict(enumerate(own)).values(),
        OrderedDict(enumerate(own)).values(),
    ]
    ways += [] if named else [nn.ParameterList(net.parameters()), dict(net.named_parameters()).values()]
    ways += [[OrderedDict(params=own)], ({"params": generator()} for _ in range(1))]
    for way in ways:
        assert len(dd.Prodigy(way).param_groups[0]["params"]) == 4
    for wrong in (own[0] if not named else own[0][1], net[0]):
        with pytest.raises(TypeError, match="iterable"):
            dd.Prodigy(wrong)


def test_a_closure_may_be_given_by_name_and_gradients_be_zeroed_either_way() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([w])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure=closure).detach() == 3.0
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is not None
    assert not w.grad.any()
    optimizer.zero_grad(set_to_none=True)
    assert w.grad is None
    assert all(type(value) in (*PLAIN, tuple) for value in optimizer.defaults.values())


# ---------------------------------------------------------------- frozen parameters


def frozen_weights() -> dict[str, Tensor]:
    with warnings.catch_warnings():  # deprecated by torch, and still found in models
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    return {
        "uint8": torch.randint(0, 255, (4, 3), dtype=torch.uint8), "int8": torch.ones(4, dtype=torch.int8),
        "int64": torch.ones(2, dtype=torch.int64), "bool": torch.ones(5, dtype=torch.bool),
        "complex64": torch.ones(3, dtype=torch.complex64), "complex128": torch.ones((), dtype=torch.complex128),
        "float8": torch.ones(4).to(torch.float8_e4m3fn), "empty": torch.empty(0, dtype=torch.uint8),
        "quantized": quantized, "pair": TwoTensor(torch.ones(3), torch.ones(3)), "meta": torch.empty(7, device="meta"),
    }  # fmt: skip


class Adapted(nn.Module):
    """A linear layer whose base is frozen in every dtype there is, and two matrices that train."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, t in frozen_weights().items():
            self.register_parameter(name, nn.Parameter(t, requires_grad=False))
        self.a, self.b = nn.Parameter(torch.randn(4, 6) * 0.1), nn.Parameter(torch.zeros(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a.T @ self.b.T


def adapt(optimizer: dd.LearningRateFree, net: nn.Module, steps: int = 20) -> list[Any]:
    ds = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        (net(torch.randn(16, 6, generator=generator)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ds.append(optimizer.d)
    return ds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.float32}], ids=["", "state_dtype"])
def test_frozen_parameters_of_any_dtype_are_left_alone(method: str, options: dict[str, Any]) -> None:
    net, alone = Adapted(), Adapted()
    optimizer, wanted = ALL[method](net.parameters(), **options), ALL[method]([alone.a, alone.b], **options)
    assert [*map(str, adapt(optimizer, net))] == [*map(str, adapt(wanted, alone))]
    assert {p for p, buffers in optimizer.state.items() if buffers} == {net.a, net.b}
    loaded = saved_and_loaded(optimizer)
    other = ALL[method](net.parameters(), **options)
    other.load_state_dict(loaded)
    assert [*map(str, adapt(other, net))] == [*map(str, adapt(wanted, alone))]  # COCOB's are NaN
    assert all(map(torch.equal, (net.a, net.b), (alone.a, alone.b)))


def test_a_frozen_parameter_is_looked_at_when_it_is_to_train() -> None:
    net = Adapted()
    optimizer = dd.Prodigy(net.parameters())
    adapt(optimizer, net, 3)
    net.get_parameter("complex64").requires_grad_()
    before = net.b.detach().clone()
    with pytest.raises(ValueError, match=r"dtype torch.complex64.*view_as_real"):
        adapt(optimizer, net, 1)
    assert torch.equal(net.b, before)
    net.get_parameter("complex64").requires_grad_(False)
    adapt(optimizer, net, 1)
    with pytest.raises(ValueError, match=r"dtype torch.float8_e4m3fn.*bfloat16"):
        dd.Prodigy([nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))])


def adapt_on_ranks(sharded: bool) -> tuple[list[Any], list[Any]]:
    """d with frozen weights of every dtype, replicated or beside FSDP2's, and after a checkpoint; d without them."""
    net, alone = Adapted(), Adapted()
    if sharded:
        for name in (
            "complex128",
            "float8",
            "empty",
            "quantized",
            "pair",
            "meta",
            "complex64",
        ):  # FSDP2 shards only some
            delattr(net, name)
        fully_shard(net)
    own = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    optimizer, wanted = dd.Prodigy(net.parameters()), dd.Prodigy([alone.a, alone.b], process_group=own)
    ds = adapt(optimizer, net, 10)
    if sharded:
        state = get_optimizer_state_dict(net, optimizer)
        optimizer = dd.Prodigy(net.parameters())
        set_optimizer_state_dict(net, optimizer, state)
    return ds + adapt(optimizer, net, 10), adapt(wanted, alone, 10) + adapt(wanted, alone, 10)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "FSDP2"])
def test_frozen_parameters_of_any_dtype_are_left_alone_on_ranks(sharded: bool, pool2: WorkerPool) -> None:
    (first, wanted), (second, _) = pool2.run(adapt_on_ranks, sharded)
    assert first == second
    assert first == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("method", ALL)
def test_the_default_device_changes_nothing(method: str, backend: str) -> None:
    """What lies on the host lies there whatever torch.set_default_device says; the meta device makes every slip an error."""

    def run(device: str) -> tuple[list[float], list[float]]:
        p = torch.nn.Parameter(torch.linspace(1, 2, 6))
        gradients = [torch.linspace(1, 2 + k, 6) for k in range(4)]
        with torch.device(device):
            optimizer = ALL[method]([p], backend=backend, nonfinite="skip")
            for p.grad in gradients:
                optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            return p.tolist(), optimizer.effective_lr

    assert repr(run("meta")) == repr(run("cpu"))
