"""Check that a converted checkpoint of a released package continues the run as that package would."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dadaptation.experimental.dadapt_adam_preprint import DAdaptAdamPreprint
from dadaptation.experimental.dadapt_adan_ip import DAdaptAdanIP
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.checkpoint.from_released import convert
from tests.helpers.classes import CLASSES
from tests.helpers.oracles.cases import CASES, HALF_AT_LR_ZERO, with_eps
from tests.helpers.oracles.released import Problem, Trace, flat, largest_errors, make_released, released_step, with_gaps
from tests.helpers.resumed import same
from tests.helpers.runs import our_step

BEFORE, AFTER = 6, 100
TOLERANCE = 1e-10
MORE: list[tuple[str, dict[str, Any]]] = [
    ("prodigy", {"betas": (0.0, 0.99)}),
    ("prodigy", {"slice_p": 11, "betas": (0.0, 0.99)}),
    ("dadapt_adan", {"weight_decay": 0.0}),
]  # fmt: skip


def ours_from(key: str, xs: list[nn.Parameter], groups: Any, state_dict: dict[str, Any]) -> Any:
    """Our optimizer with default options on copies of the parameters, after loading the converted checkpoint."""
    copies = [nn.Parameter(x.detach().clone()) for x in xs]
    parts = [{"params": [copies[i] for i in group["indices"]]} for group in groups or [{"indices": range(len(xs))}]]
    optimizer = CLASSES[key](parts)
    optimizer.load_state_dict(state_dict)
    return optimizer, copies


def go_on(
    key: str,
    options: dict[str, Any],
    groups: list[dict[str, Any]] | None = None,
    *,
    before: int = BEFORE,
    gaps: bool = False,
    method: str | None = None,
    aged: Callable[[dict[str, Any]], dict[str, Any]] = lambda state_dict: state_dict,
) -> tuple[Trace, Trace]:
    """Train with the released optimizer, convert, and go on with both."""
    problem = Problem()
    gradients = with_gaps(problem.gradients) if gaps else problem.gradients
    released, xs = make_released(key, problem, with_eps(key, options), groups)
    for step in range(before):
        released_step(released, xs, gradients(step, xs))
    order = [x for group in released.param_groups for x in group["params"]]
    converted = convert(aged(released.state_dict()), method, params=order)
    optimizer, copies = ours_from(key, xs, groups, converted)
    assert optimizer.d == pytest.approx(float(released.param_groups[0]["d"]), rel=0)
    ours, theirs = Trace(flat(problem.starts)), Trace(flat(problem.starts))
    for step in range(before, before + AFTER):
        released_step(released, xs, gradients(step, xs))
        our_step(optimizer, copies, gradients(step, copies))
        ours.add(optimizer.d, copies)
        theirs.add(float(released.param_groups[0]["d"]), xs)
    return ours, theirs


def assert_goes_on(ours: Trace, theirs: Trace) -> None:
    error_d, error_x = largest_errors(ours, theirs)
    assert error_d < TOLERANCE
    assert error_x < TOLERANCE
    assert float((theirs.x[-1] - theirs.x[0]).abs().max()) > 1e-4, "nothing moved: the comparison would be empty"


@pytest.mark.slow
@pytest.mark.parametrize(("key", "options"), [*CASES, *MORE], ids=str)
def test_the_next_100_steps_are_those_of_the_released_optimizer(key: str, options: dict[str, Any]) -> None:
    ours, theirs = go_on(key, {"d0": 1e-4, **options})
    assert_goes_on(ours, theirs)


@pytest.mark.parametrize(
    ("key", "options"),
    [*((key, {}) for key in CLASSES), ("prodigy", {"slice_p": 3}), ("prodigy", {"slice_p": 4})],
    ids=str,
)
def test_a_checkpoint_of_the_middle_of_the_growth_of_d_goes_on(key: str, options: dict[str, Any]) -> None:
    ours, theirs = go_on(key, options, before=5)
    assert_goes_on(ours, theirs)
    assert theirs.d[-1] > 2 * theirs.d[0]


def of_prodigyopt_1_0(state_dict: dict[str, Any]) -> dict[str, Any]:
    """There were no slices: s and p0 in the parameter's shape, p0 also of zero weights, exp_avg also without beta1."""
    state = {}
    for index, saved in state_dict["state"].items():
        shape = saved["exp_avg_sq"].shape
        whole = {name: saved[name].expand(shape.numel()).reshape(shape).clone() for name in ("s", "p0")}
        state[index] = {"exp_avg": torch.zeros(shape, dtype=saved["s"].dtype), **saved, **whole}
    groups = [{key: v for key, v in group.items() if key != "slice_p"} for group in state_dict["param_groups"]]
    return {"state": state, "param_groups": groups}


def of_prodigyopt_1_1(state_dict: dict[str, Any]) -> dict[str, Any]:
    """exp_avg also without beta1; zero weights had a scalar p0."""
    zeros = {index: torch.zeros_like(saved["exp_avg_sq"]) for index, saved in state_dict["state"].items()}
    state = {index: {"exp_avg": zeros[index], **saved} for index, saved in state_dict["state"].items()}
    return {**state_dict, "state": state}


def of_dadaptation_3_0(state_dict: dict[str, Any]) -> dict[str, Any]:
    """And 3.1: no layer_scale."""
    groups = [{key: v for key, v in group.items() if key != "layer_scale"} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "aged", "options"),
    [
        ("prodigy", of_prodigyopt_1_0, {}),
        ("prodigy", of_prodigyopt_1_0, {"betas": (0.0, 0.99)}),
        ("prodigy", of_prodigyopt_1_1, {"betas": (0.0, 0.99), "slice_p": 11}),
        *((key, of_dadaptation_3_0, {}) for key in CLASSES if key != "prodigy"),
    ],
    ids=lambda item: getattr(item, "__name__", str(item)),
)
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_checkpoints_of_older_releases_go_on(key: str, aged: Any, options: dict[str, Any], named: bool) -> None:
    ours, theirs = go_on(key, {"d0": 1e-4, **options}, aged=aged, method=key if named else None)
    assert_goes_on(ours, theirs)


@pytest.mark.parametrize("key", CLASSES)
def test_a_checkpoint_from_before_the_first_step_is_a_start(key: str) -> None:
    ours, theirs = go_on(key, {"d0": 1e-4} if key == "prodigy" else {}, before=0)
    assert_goes_on(ours, theirs)


@pytest.mark.parametrize("key", [key for key in CLASSES if key != "dadapt_adagrad"])  # it departs there
def test_parameters_without_gradients_so_far_start_when_they_get_one(key: str) -> None:
    ours, theirs = go_on(key, {"d0": 1e-4}, before=3, gaps=True)
    assert_goes_on(ours, theirs)


@pytest.mark.parametrize("key", ["prodigy", "dadapt_adam", "dadapt_sgd"])
def test_groups_at_lr_0_stay_there(key: str) -> None:
    ours, theirs = go_on(key, {"d0": 1e-4}, HALF_AT_LR_ZERO)
    assert_goes_on(ours, theirs)


def test_options_that_the_released_code_reads_from_the_first_group_hold_for_all() -> None:
    groups = [{"indices": [0, 3], "betas": (0.8, 0.95), "growth_rate": 1.5}, {"indices": [2, 1], "weight_decay": 0.1}]
    for key in ("prodigy", "dadapt_adam", "dadapt_adan"):
        betas = {"betas": (0.8, 0.7, 0.95)} if key == "dadapt_adan" else {}
        ours, theirs = go_on(key, {"d0": 1e-4}, [groups[0] | betas, groups[1]])
        assert_goes_on(ours, theirs)


@pytest.mark.parametrize("key", CLASSES)
def test_the_method_is_found_from_the_keys_and_may_be_named(key: str) -> None:
    problem = Problem()
    released, xs = make_released(key, problem, {})
    for step in range(3):
        released_step(released, xs, problem.gradients(step, xs))
    assert convert(released.state_dict())["param_groups"][0]["method"] == key
    assert same(convert(released.state_dict(), key), convert(released.state_dict()))
    for other in set(CLASSES) - {key}:
        with pytest.raises(ValueError, match="is not of"):
            convert(released.state_dict(), other)


@pytest.mark.parametrize("key", CLASSES)
def test_the_checkpoint_stays_as_it_was_and_shares_no_memory_with_the_result(key: str) -> None:
    problem = Problem()
    released, xs = make_released(key, problem, {})
    for step in range(3):
        released_step(released, xs, problem.gradients(step, xs))
    checkpoint = released.state_dict()
    kept = copy.deepcopy(checkpoint)
    converted = convert(checkpoint)
    for buffers in converted["state"].values():
        for t in buffers.values():
            t.fill_(7)
    assert same(checkpoint, kept)


def test_scalars_that_are_tensors_become_numbers(library_log: pytest.LogCaptureFixture) -> None:
    for key in ("prodigy", "dadapt_adam"):
        problem = Problem()
        released, xs = make_released(key, problem, {"d0": 1e-4})
        for step in range(9):
            released_step(released, xs, problem.gradients(step, xs))
        plain = convert(released.state_dict())
        checkpoint = released.state_dict()
        for group in checkpoint["param_groups"]:
            group |= {
                name: torch.tensor(group[name]).double() for name in ("d", "d_max", "d_numerator") if name in group
            }
        converted = convert(checkpoint)
        assert isinstance(converted["param_groups"][0]["d"], float)
        assert converted["param_groups"][0]["d"] == pytest.approx(plain["param_groups"][0]["d"], rel=1e-6)
    assert ["DAdaptAdam" in message for message in library_log.messages] == [True], (
        "Prodigy saves the sums of all ranks"
    )


def test_bfloat16_buffers_are_loaded_as_float32() -> None:
    xs = [nn.Parameter(start.bfloat16()) for start in Problem().starts]
    released = make_released("prodigy", Problem(), {})[0].__class__(xs)
    released_step(released, xs, [torch.ones_like(x) for x in xs])
    optimizer, copies = ours_from("prodigy", xs, None, convert(released.state_dict()))
    assert {t.dtype for x in copies for t in optimizer.state[x].values()} == {torch.float32}


def test_a_restarted_adan_forgets_its_gradient() -> None:
    problem = Problem()
    released, xs = make_released("dadapt_adan", problem, {"d0": 1e-2})
    for step in range(9):
        released_step(released, xs, problem.gradients(step, xs))
    released.restart_opt()  # type: ignore[operator]
    optimizer, copies = ours_from("dadapt_adan", xs, None, convert(released.state_dict()))
    for step in range(9, 30):
        released_step(released, xs, problem.gradients(step, xs))
        our_step(optimizer, copies, problem.gradients(step, copies))
    assert (flat(xs) - flat(copies)).norm() < TOLERANCE * flat(xs).norm()


def sparse(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(0, 6, (1, 4), generator=generator)
    return torch.sparse_coo_tensor(rows, torch.randn(4, 3, generator=generator, dtype=torch.float64) + 0.5, (6, 3))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's, said once in a process
def test_adagrad_goes_on_with_sparse_gradients() -> None:
    """eps so small that the released √(α + eps), used for sparse gradients alone, is √α + eps."""
    x = nn.Parameter(torch.randn(6, 3, dtype=torch.float64))
    released = make_released("dadapt_adagrad", Problem(), {})[0].__class__([x], eps=1e-20, d0=1e-3)
    for step in range(10):
        x.grad = sparse(step)
        released.step()
    assert "weighted_sk" in released.state[x]
    optimizer, (y,) = ours_from("dadapt_adagrad", [x], None, convert(released.state_dict()))
    start = x.detach().clone()
    for step in range(10, 60):
        x.grad, y.grad = sparse(step), sparse(step)
        released.step()
        optimizer.step()
    assert optimizer.d == pytest.approx(float(released.param_groups[0]["d"]), rel=1e-10)
    assert (x - y).norm() < 1e-10 * (x - start).norm()
    assert optimizer.d > 2e-3


# -------------------------------------------------------------------- what is refused


def checkpoint_of(key: str) -> dict[str, Any]:
    problem = Problem()
    released, xs = make_released(key, problem, {})
    for step in range(4):
        released_step(released, xs, problem.gradients(step, xs))
    return copy.deepcopy(released.state_dict())


@pytest.mark.parametrize(
    ("key", "place", "name", "message"),
    [
        ("prodigy", "group", "d_numerator", "no method can be told"),
        ("prodigy", "state", "p0", "lacks the buffers p0 of parameter 2"),
        ("prodigy", "state", "exp_avg_sq", "exp_avg_sq of parameter 2"),
        ("dadapt_sgd", "group", "g0_norm", "lacks g0_norm after 4 steps"),
        ("dadapt_adagrad", "state", "sk", "lacks the buffers sk"),
        ("dadapt_adan", "state", "pre_grad", "lacks the buffers pre_grad"),
    ],
)
def test_what_is_missing_is_named(key: str, place: str, name: str, message: str) -> None:
    checkpoint = checkpoint_of(key)
    del (checkpoint["param_groups"][0] if place == "group" else checkpoint["state"][2])[name]
    with pytest.raises(ValueError, match=message):
        convert(checkpoint)


def test_missing_keys_are_named_when_the_method_is_given() -> None:
    checkpoint = checkpoint_of("prodigy")
    for name in ("slice_p", "d_max"):
        del checkpoint["param_groups"][0][name]
    with pytest.raises(ValueError, match="lack d_max, slice_p"):
        convert(checkpoint, "prodigy")


def test_checkpoints_of_other_optimizers_are_refused() -> None:
    x = nn.Parameter(torch.ones(2))
    for optimizer in (torch.optim.AdamW([x]), torch.optim.SGD([x]), DAdaptAdamPreprint([x]), DAdaptAdanIP([x])):
        with pytest.raises(ValueError, match="no method can be told"):
            convert(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"is not of dadaptation\.DAdaptLion.*have"):
        convert(DAdaptAdanIP([x]).state_dict(), "dadapt_lion")


def test_our_own_checkpoint_and_a_file_around_one_are_refused() -> None:
    optimizer = dd.Prodigy([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="already"):
        convert(optimizer.state_dict())
    with pytest.raises(ValueError, match="lacks param_groups, state"):
        convert({"optimizer": optimizer.state_dict()})
    with pytest.raises(ValueError, match="'Prodigy' is not one of dadapt_adagrad"):
        convert(checkpoint_of("prodigy"), "Prodigy")


def test_parameters_of_another_model_are_refused() -> None:
    checkpoint = checkpoint_of("prodigy")
    shapes = [t.shape for t in Problem().starts]
    with pytest.raises(ValueError, match="params= has 3 parameters, the state dict 4"):
        convert(checkpoint, params=[torch.zeros(shape) for shape in shapes[:3]])
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(7,\)"):
        convert(checkpoint, params=[torch.zeros(shape) for shape in (shapes[1], shapes[0], *shapes[2:])])


def test_a_slice_of_another_length_is_refused() -> None:
    checkpoint = checkpoint_of("prodigy")
    checkpoint["param_groups"][0]["slice_p"] = 3
    with pytest.raises(ValueError, match=r"of parameter 0 has 12 entries.*slice_p=3 need 4"):
        convert(checkpoint)
