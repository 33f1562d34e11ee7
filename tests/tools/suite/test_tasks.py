"""Check the tasks of the suite: real data, pure functions of seed and step, losses that training lowers."""

import itertools
from pathlib import Path

import pytest
import torch

from dadapt_dist.tools.suite import catalogue, data, language
from dadapt_dist.tools.suite.catalogue import DEEP, HALVES, TASKS
from dadapt_dist.tools.suite.logistic import LOGISTIC
from dadapt_dist.tools.suite.task import Task, rates
from dadapt_dist.tools.suite.train import Run, train
from dadapt_dist.tools.suite.variants import VARIANTS, Variant

OF_THE_STANDARD_LIBRARY = ("transformer", "gru", "recommender", "finetune", "lora")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, bases: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task that is ready, its base hardly trained; skipped where its data package is not installed."""
    monkeypatch.setattr(language, "BASE_STEPS", 30)
    found = TASKS[request.param]
    try:
        found.batch(0, 1)
    except ImportError as error:
        assert request.param not in OF_THE_STANDARD_LIBRARY
        pytest.skip(str(error))
    found.prepare(bases)
    return found


def after(task: Task, steps: int, folder: Path) -> float:
    """Loss by which a task is judged after some steps of AdamW at the middle of its grid."""
    rate = {"lr": rates(task, task.steps)[5], "weight_decay": 0.0}
    loss: float = train(Run(task.name, Variant("adamw", "AdamW", rate), 0, steps), folder)["loss"]
    return loss


def test_a_few_steps_lower_the_loss(task: Task, bases: Path) -> None:
    assert after(task, 40, bases) < 0.99 * after(task, 1, bases)


def test_a_batch_and_a_model_are_functions_of_the_seed(task: Task) -> None:
    first, again, later, other = (task.batch(*of) for of in ((3, 7), (3, 7), (3, 8), (4, 7)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], later[0])
    assert not torch.equal(first[0], other[0])
    models = [list(task.model(seed).parameters()) for seed in (0, 0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(models[0], models[1], strict=True))
    same = all(torch.equal(a, b) for a, b in zip(models[0], models[2], strict=True))
    assert same == (task.name in ("finetune", "finetune-cnn"))  # all their weights come from the base


def test_a_run_gives_the_same_bits_again_and_leaves_the_global_generator_alone(bases: Path) -> None:
    run = Run("recommender", VARIANTS["recipe"], 5, 6)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = train(run, bases)
    assert torch.equal(before, torch.random.get_rng_state())
    again, other = train(run, bases), train(Run("recommender", VARIANTS["recipe"], 6, 6), bases)
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert first["loss"] != other["loss"]
    assert first["curve"] != other["curve"]


def test_a_run_that_diverges_counts_with_the_largest_loss(bases: Path) -> None:
    record = train(Run("recommender", Variant("far", "AdamW", {"lr": 1e30}), 0, 20), bases)
    assert record["diverged"]
    assert record["loss"] == 99.0


def test_low_rank_starts_at_the_base_and_trains_only_what_was_added(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "BASE_STEPS", 30)
    lora, whole = TASKS["lora"], TASKS["finetune"]
    lora.prepare(bases)
    whole.prepare(bases)
    model = lora.model(0)
    tokens = lora.batch(0, 1)[0]
    torch.testing.assert_close(model(tokens), whole.model(0)(tokens))
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"a", "b"}


def test_diffusion_starts_with_an_output_of_zero() -> None:
    denoiser = TASKS["diffusion"].build()
    assert torch.equal(denoiser(torch.randn(2, 196), torch.rand(2, 1)), torch.zeros(2, 196))


def test_the_halves_alternate_within_each_kind() -> None:
    assert len(DEEP) >= 10
    assert len(LOGISTIC) >= 12
    assert not set(HALVES["chosen on"]) & set(HALVES["reported"])
    assert set(HALVES["chosen on"]) | set(HALVES["reported"]) == set(TASKS)
    for kind in (DEEP, LOGISTIC):
        assert [task.name in HALVES["chosen on"] for task in kind] == [i % 2 == 0 for i in range(len(kind))]


def test_a_grid_has_nine_rates_and_moves_with_the_length() -> None:
    task = TASKS["transformer"]
    usual = rates(task, task.steps)
    assert len(usual) == 9
    assert [b / a for a, b in itertools.pairwise(usual)] == [2.0] * 8
    for each in TASKS.values():
        assert set(rates(each, 100)) & set(rates(each, 4000)) >= {1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2}
    assert rates(task, 4 * task.steps)[0] == usual[0] / 2
    assert rates(task, 100)[0] == usual[0] * 2


def test_the_page_on_quality_lists_every_task() -> None:
    page = (Path(__file__).parents[3] / "docs" / "quality.md").read_text(encoding="utf-8")
    for half, names in HALVES.items():
        for task in map(TASKS.__getitem__, names):
            assert f"| {task.name} | {half} | {task.about} | {task.judged} | {task.steps} | {task.size} |" in page


def test_numbers_stay_and_words_become_columns() -> None:
    assert data.columns([["1.5", "b"], ["2", "a"]]).tolist() == [[1.5, 0.0, 1.0], [2.0, 1.0, 0.0]]
    assert data.classes(["x", "a", "x"]).tolist() == [1, 0, 1]


def test_held_out_examples_are_not_trained_on() -> None:
    whole = torch.arange(50.0)[:, None]
    made = data.split(whole, whole, "any")
    assert sorted(torch.cat([made.x, made.held_out_x]).flatten().tolist()) == whole.flatten().tolist()
    assert len(made.held_out_x) == 10


def test_groups_and_names_select_tasks_in_their_order() -> None:
    assert [task.name for task in catalogue.select("iris, gru,transformer")] == ["transformer", "gru", "iris"]
    assert len(catalogue.select("deep,logistic")) == len(TASKS)
