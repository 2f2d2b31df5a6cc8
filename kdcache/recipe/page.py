"""What docs/recipes.md says of the keys, from the table that checks them."""

from __future__ import annotations

from kdcache.recipe.keys import KEYS, OVERRIDES

HEADINGS = {
    "": "Above the first table",
    "teacher": "`[teacher]`, or several `[[teacher]]`",
    "dump": "`[dump]`, or several `[[dump]]`",
    "student": "`[[student]]`",
    "pseudo": "`pseudo` of a student",
    "plot": "`[plot]`",
    "pack": "`[pack]`",
    "settings": "`[settings]`, and the same keys in `[teacher]` and `[[student]]`",
}


def keys_as_markdown() -> str:
    """A table for each part of a recipe."""
    return "\n".join(line for part, heading in HEADINGS.items() for line in table(part, heading))


def table(part: str, heading: str) -> list[str]:
    own = {name: key for name, key in KEYS[part].items() if OVERRIDES.get(name) is not key}
    rows = [f"| `{name}` | {key.kind} | {key.default} | {key.meaning} |" for name, key in own.items()]
    return [f"### {heading}", "", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
