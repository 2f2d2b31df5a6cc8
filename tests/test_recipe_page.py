"""docs/recipes.md says of every key what the code says. As a program, this file writes that part of the page."""

from pathlib import Path

from kdcache.recipe.keys import KEYS, SETTINGS
from kdcache.recipe.page import keys_as_markdown
from kdcache.train import Settings

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
MARK = "writes what follows -->\n\n"


def test_the_page_has_every_key_as_the_code_has_it():
    assert PAGE.read_text().partition(MARK)[2] == keys_as_markdown()


def test_every_setting_can_be_said():
    assert KEYS["settings"].keys() == SETTINGS.keys() == Settings.__dataclass_fields__.keys()


def test_every_key_is_explained():
    assert not [(part, name) for part, keys in KEYS.items() for name, key in keys.items() if not all(key)]


if __name__ == "__main__":
    head, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(head + mark + keys_as_markdown())
