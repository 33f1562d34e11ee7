"""Every row of the table of known issues is reached by the running engine's refusals and by the doctor alike."""

import re
from types import SimpleNamespace

import pytest

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
