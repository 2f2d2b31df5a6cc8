"""Recipes that come with the package, for `kdcache run demo`: beside it in a checkout, within it once installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

from kdcache.checks import advice
from kdcache.errors import UsageError

PACKAGE = Path(__file__).parent.parent
FOLDERS = (PACKAGE / "pipelines", PACKAGE.parent / "pipelines")


def recipes() -> dict[str, Path]:
    """Name -> file.

    >>> "demo" in recipes()
    True
    """
    folder = next((folder for folder in FOLDERS if (folder / "demo.toml").is_file()), PACKAGE)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def titles() -> dict[str, str]:
    """Name -> what the table of the recipe is called."""
    return {name: tomllib.loads(path.read_text("utf-8")).get("title", "") for name, path in recipes().items()}


def located(path: str) -> str:
    """The file itself, or that of the recipe of this name."""
    known = recipes()
    if path in known and not Path(path).is_file():  # there may be a folder of that name
        return str(known[path])
    if Path(path).exists():
        return path
    remedy = advice(path, known, "see `kdcache list recipes`")
    raise UsageError(path, "a TOML file, or the name of a recipe", "neither", remedy)
