"""Every method of the registry does what the conformance suite asks."""

import pytest

from dadapt_dist.methods import METHODS
from tests.helpers.method_suite import CHECKS, Check, Row, rows
from tests.helpers.oracles import ORACLES


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_method(row: Row, check: Check) -> None:
    check(row)


def test_every_method_has_an_oracle() -> None:
    assert set(METHODS) == set(ORACLES)
