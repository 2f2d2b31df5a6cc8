"""The classes that docs/contributing.md adds work everywhere once their line stands in the table."""

import json
import re
from pathlib import Path

import pytest
import torch
from cli_cases import DUMP, TEACHER, good, refused
from reference_views import made_images, made_seeds

from kdcache.views import VIEWS, from_json, open_view
from kdcache.views.native import Untouched

PAGE = (Path(__file__).parent.parent / "docs" / "contributing.md").read_text()


def shown(name: str) -> type:
    """The class of this name, as the page shows it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = next(block for block in blocks if f"class {name}(" in block)
    space = {"__name__": "kdcache.example"}
    exec(code, space)
    return space[name]


@pytest.fixture
def turned(monkeypatch):
    monkeypatch.setitem(VIEWS, "turned", (shown("Turned"), {}))
    return open_view("turned", (8, 8))


@pytest.mark.parametrize("mixing", ["", "+cutmix"])
def test_a_new_view_comes_back_from_its_header(turned, mixing):
    view = open_view(f"turned{mixing}", (8, 8), 10)
    assert from_json("cache.h5", json.loads(json.dumps(view.to_json()))) == view
    assert view.evaluation() == Untouched((8, 8))


def test_a_new_view_renders(turned):
    images, seeds = made_images(40, 8, 8), made_seeds(40)
    rendered = turned.render(images, seeds)
    turns = {
        next(n for n in range(4) if torch.equal(new, old.rot90(n, (1, 2))))
        for old, new in zip(images, rendered, strict=True)
    }
    assert turns == {0, 1, 2, 3}


def test_a_new_view_is_listed_advised_and_dumped(turned, in_tmp):
    assert "turned by 0, 90" in good("list views").out
    refused("plan --data synthetic:64,4,16 --augment turnd --teacher tiny-3", 2, "did you mean turned?")
    refused("plan --data synthetic:64,4,16 --augment turned:3 --teacher tiny-3", 2, "turned, which takes no argument")
    good(f"{TEACHER} --augment turned")
    assert good(f"{DUMP} --augment turned -o a.h5 --json").json()["view"]["view"] == "turned"
    assert good("verify a.h5 --json").json()["ok"]
