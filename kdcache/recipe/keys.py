"""The keys that a recipe may have, and what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from kdcache.checks import advice
from kdcache.errors import UsageError
from kdcache.train import Settings

SETTINGS = {f.name: object for f in dataclasses.fields(Settings)}  # these check their own types
PSEUDO = dict.fromkeys(("accuracy", "confusion", "like", "errors", "confidence", "spread", "shape"), str)
KEYS: dict[str, dict[str, type]] = {
    "": {
        "title": str, "data": str, "augment": str, "fraction": float, "seeds": int, "show": bool,
        "settings": dict, "teacher": dict, "dump": dict, "plot": dict, "student": list,
    },
    "settings": SETTINGS,
    "teacher": {"model": str, "fraction": float, **SETTINGS},
    "dump": {"views": object, "codec": str, "method": str, "seed": int, "batch": int, "dtype": str},
    "plot": {"title": str, "x": str},
    "student": {
        "name": str, "model": str, "method": str, "mix": str, "live": bool, "pseudo": dict,
        "series": str, "x": float, **SETTINGS,
    },
    "pseudo": {**PSEUDO, "temperature": float, "calibrated": bool},
}  # fmt: skip
NAMES = {str: "a text in quotes", float: "a number", int: "a whole number", bool: "true or false", dict: "a table"}


def check_keys(path: str, table: dict) -> None:
    """Refuses what no part knows, since a misspelt key would silently be a default, and values of another type."""
    check_part(path, "", table)
    for part in ("settings", "teacher", "dump", "plot"):
        check_part(f"{path} [{part}]", part, table.get(part, {}))
    for student in table.get("student", []):
        place = f"{path} [[student]]"
        if not isinstance(student, dict):
            raise UsageError(place, "a table", repr(student), "write [[student]] above its keys")
        check_part(place, "student", student)
        check_part(f"{place} pseudo", "pseudo", student.get("pseudo", {}))
    if "model" not in table.get("teacher", {}) or not table.get("student"):
        raise UsageError(path, "[teacher] with a model, and one [[student]] or more", "less", "see pipelines/")


def check_part(place: str, part: str, keys: Mapping) -> None:
    for key, value in keys.items():
        if key not in KEYS[part]:
            remedy = advice(key, KEYS[part], "leave it out")
            raise UsageError(place, f"keys out of {', '.join(sorted(KEYS[part]))}", key, remedy)
        wanted = KEYS[part][key]
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted in (int, float)):
            what = "[[student]] tables" if wanted is list else NAMES[wanted]
            raise UsageError(f"{place} {key}".strip(), what, repr(value), "mend it")
