"""Check that every method under every layout follows the trajectory of one process, with the collectives that it needs."""

from typing import Any

import pytest

from tests.helpers.classes import WITH_D, method_of
from tests.helpers.collectives import reduces_of
from tests.helpers.layout_runs import STEPS, WAYS, depth_of, frozen_in, reference, train, train_low_precision
from tests.helpers.layouts import LAYOUTS


@pytest.mark.parametrize(("method", "before"), WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_method_under_every_layout_follows_one_process(layout: str, method: str, before: str, pools: Any) -> None:
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, before)
    ds, params = reference(method, depth_of(layout), frozen_in(layout), before)

    for result in results:
        assert [d.hex() for d in result["d"]] == [d.hex() for d in results[0]["d"]], "d differs between ranks"
        assert result["collectives"][1:] == [reduces_of(method, lagged=before == "lagged")] * (STEPS - 1)
        assert result["others"][1:] == [0] * (STEPS - 1)
        assert result["d"] == pytest.approx(ds, rel=1e-10, abs=0, nan_ok=method_of(method) not in WITH_D)
        assert result["params"].keys() == params.keys()
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name
    grown = 1.5 if method == "dual_averaging" else 2.0  # whose first gradients keep their small weights
    assert method_of(method) not in WITH_D or ds[-1] > grown * ds[0], "d never moved: the comparison would be empty"


# float32 gradients carry 1e-7 of rounding, bfloat16 ones 4e-3; d is a ratio of sums over all of them. Seen: 2.5e-6 and 4.1e-4.
@pytest.mark.parametrize(("layout", "bound"), [("float32", 1e-5), ("mixed precision", 2e-3)])
def test_low_precision_follows_one_float64_process_within_its_rounding(layout: str, bound: float, pools: Any) -> None:
    ds, _ = reference("prodigy", 1)
    results = pools(2).run(train_low_precision, layout)
    assert [d.hex() for d in results[0]] == [d.hex() for d in results[1]]
    error = max(abs(d / expected - 1) for d, expected in zip(results[0], ds, strict=True))
    assert 0 < error < bound
