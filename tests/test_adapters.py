"""What the adapters have in common: a page that shows the tested script, and a word on what is to be installed."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from kdcache.errors import KdcacheError

HOME = Path(__file__).parents[1]
PAGES = sorted((HOME / "docs" / "trainers").glob("*.md"))
LIBRARIES = {"timm": "timm.task", "transformers": "transformers", "lightning": "lightning.pytorch", "keras": "keras"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_script_that_is_tested(page):
    script = (HOME / "tests" / "trainers" / f"{page.stem}_digits.py").read_text()
    assert f"```python\n{script}```\n" in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    named = re.findall(r"\]\(([^)#]+\.md)\)|`(tests/\w+\.py)`", page.read_text())
    assert [name for link, test in named if not (name := page.parent / link if link else HOME / test).is_file()] == []


def test_every_script_has_a_page_and_every_adapter_one():
    names = {page.stem for page in PAGES}
    assert {path.name.removesuffix("_digits.py") for path in (HOME / "tests" / "trainers").glob("*_digits.py")} == names
    modules = {path.stem for path in (HOME / "kdcache" / "adapters").glob("*.py")}
    assert modules - {"__init__", "timm_script"} == LIBRARIES.keys() == names - {"accelerate"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_missing_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    monkeypatch.delitem(sys.modules, f"kdcache.adapters.{name}", raising=False)
    with pytest.raises(KdcacheError, match=rf"kdcache.adapters.{name}: .*pip install 'kdcache\[{name}\]'"):
        importlib.import_module(f"kdcache.adapters.{name}")
