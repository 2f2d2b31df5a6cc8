"""docs/architecture.md draws the floors that the layer test knows, and what it names exists."""

import ast
import re
from pathlib import Path

import pytest
from test_layers import LAYERS

HOME = Path(__file__).parent.parent
PAGE = (HOME / "docs" / "architecture.md").read_text()


def test_the_floors_are_those_that_are_tested():
    rows = re.findall(r"^\| (\d) \| (.*?) \|", PAGE, re.MULTILINE)
    assert [int(floor) for floor, _ in rows] == [*range(len(LAYERS))][::-1]
    assert [set(re.findall(r"`(\w+)`", rooms)) for _, rooms in reversed(rows)] == LAYERS


@pytest.mark.parametrize("place", sorted(set(re.findall(r"kdcache/[\w/]+\.py(?::\w+)?", PAGE))))
def test_what_it_names_is_there(place):
    path, _, name = place.partition(":")
    defined = {getattr(node, "name", "") for node in ast.walk(ast.parse((HOME / path).read_text()))}
    assert name in defined
