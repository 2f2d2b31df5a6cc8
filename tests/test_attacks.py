"""A few kills, and processes at once; docs/promises.md says what came of many. See also `test_attacks_data.py`."""

import pytest
from conftest import attack

LONG = [pytest.param("kills", 200, marks=pytest.mark.slow), pytest.param("together", 100, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "count"), [("kills", 3), ("together", 1), *LONG])
def test_nothing_goes_wrong(name, count):
    attack(name, count)
