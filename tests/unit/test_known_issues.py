"""Every row of the table of known issues is reached by the running engine's refusals and by the doctor alike."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.engine.diagnostics import advice_texts
from dadapt_dist.integrations.advice import mistakes
from dadapt_dist.integrations.deepspeed.unsupported import refuse
from dadapt_dist.integrations.known_issues import APEX_AMP, DEFECTS, ELASTIC_CHECKPOINT, FEATURES, Feature
from dadapt_dist.tools.doctor import deepspeed_config, deepspeed_zero

ON = {"ratio": 0.5}


@pytest.mark.parametrize("feature", [*FEATURES, APEX_AMP, ELASTIC_CHECKPOINT], ids=lambda feature: feature.title)
def test_a_feature_is_refused_by_the_engine_and_found_by_the_doctor(feature: Feature) -> None:
    engine = SimpleNamespace(zero_optimization_stage=lambda: 2)
    refuse(engine)
    setattr(engine, feature.method, lambda: ON.get(feature.key, True))
    with pytest.raises(ValueError, match=re.escape(feature.problem)):
        refuse(engine)
    config: dict[str, object] = {"amp": {"enabled": feature is APEX_AMP}, "gradient_clipping": 0.0}
    offload = {"device": "cpu", "ratio": 0.5} if feature.key == "ratio" else {}
    config["zero_optimization"] = {"stage": 2, feature.key: True, "offload_optimizer": offload}
    assert any(feature.problem in found.problem for found in deepspeed_config.check(config))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.precision)
def test_a_defect_of_versions(defect: object, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(one for one in DEFECTS if one is defect)
    assert row.was_measured(row.first)
    assert row.was_measured(row.last)
    assert row.is_likely("99.0.0") is not row.is_fixed
    for version, wrong in ((row.first, True), (row.last, True), ("0.16.0", False)):
        numbers = tuple(int(part) for part in version.split("."))
        monkeypatch.setattr(deepspeed_zero, "deepspeed_version", lambda numbers=numbers: numbers)
        config = {row.precision: {"enabled": True}, "zero_optimization": {"stage": 0}}
        assert [found.where for found in deepspeed_zero.check_zero(config)] == [f"{row.precision}.enabled"] * wrong


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (advice_texts.LR, {"lr": 0.1, "safeguard_warmup": True}),
        (advice_texts.WARM_UP, {"lr": 1.0, "safeguard_warmup": False}),
    ],
    ids=["lr", "warm-up"],
)
def test_a_mistake_of_the_lr_is_named_alike_by_callbacks_and_by_the_doctor(
    row: advice_texts.Mistake, options: dict[str, Any]
) -> None:
    optimizer = dd.Prodigy([torch.nn.Parameter(torch.ones(2))], **options)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=4)
    said = [*mistakes(optimizer, schedule, clip=0.0, params=[])]
    schedule_file = {"type": "WarmupDecayLR", "params": {"total_num_steps": 9, "warmup_max_lr": 1.0}}
    file = {"optimizer": {"type": "Prodigy", "params": options}, "scheduler": schedule_file, "gradient_clipping": 0.0}
    found = [*deepspeed_config.check({**file, "train_batch_size": 8})]
    end = row.problem.partition("}")[2].rpartition("}")[2]  # what follows the numbers
    assert len(end) > 20
    assert [end in text for text in said] == [True]
    assert [end in one.problem and one.cure == row.cure for one in found] == [True]
