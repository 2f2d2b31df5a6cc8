"""A recipe made small: the same stages on the digits within a minute, to see that all of it runs.

Of what comes out, only that it came out means anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kdcache.models.table import family_of
from kdcache.recipe.keys import is_number

DATA, SHARE, EPOCHS, BATCH, VIEWS, SEEDS = "digits", 0.05, 2, 32, 4, 1
RELATIVES = {
    "resnet": "resnet8", "wrn": "wrn-10-1", "vgg": "vgg8-kuangliu", "googlenet": "googlenet-x10",
    "densenet": "densenetbc-22-6", "mobilenet": "mobilenetv2-half", "shufflenet": "shufflenetv2-x50", "tiny": "tiny-3",
}  # fmt: skip
"""What takes the place of a network, by the file that its body is in."""
ELSEWHERE = {*["weights", "mean", "std", "init_from", "freeze", "backbone_lr", "published", "source"]}
"""Keys that belong to the real images and networks."""
SLOW = {"eval_every", "compile"}


def note(data: str) -> str:
    shrunk_to = f"{SHARE:.0%} of their rows, {EPOCHS} epochs, {VIEWS} views, small networks"
    return f"{data}, {shrunk_to}: these figures mean nothing"


def tiny(table: dict, data: str) -> dict:
    """The same recipe as a table of TOML, for other images and with smaller numbers."""
    teachers, dumps = (entries(table.get(part, [])) for part in ("teacher", "dump"))
    small = {key: value for key, value in table.items() if key != "augment"}
    small |= {"data": data, "fraction": SHARE, "seeds": SEEDS}  # of a part of them, some methods need all classes
    small["title"] = f"{table.get('title', '')} ({note(data)})".strip()
    small["pack"] = table.get("pack", False) is not False
    small["settings"] = shrunk({"epochs": EPOCHS} | table.get("settings", {})) | {"eval_every": EPOCHS}
    small["teacher"] = [{"name": keys.get("name", keys.get("model"))} | shrunk(keys) for keys in teachers]
    small["dump"] = [shrunk({"views": VIEWS} | keys) for keys in dumps]
    small["student"] = [shrunk({key: keys[key] for key in keys if key != "seeds"}) for keys in table["student"]]
    return {key: value for key, value in small.items() if value != []}


def entries(found: dict | list) -> list[dict]:
    return found if isinstance(found, list) else [found]


def shrunk(keys: dict) -> dict:
    """The keys of one table; a list of several values loses those that have become the same."""
    found = {}
    for key, value in keys.items():
        if key in SMALLER:
            several = isinstance(value, list)
            value = list(dict.fromkeys(map(SMALLER[key], value))) if several else SMALLER[key](value)
        if key == "pseudo" and isinstance(value, dict):
            value = {name: one for name, one in value.items() if name not in ("confusion", "like")}
            if not is_rate(value.get("accuracy")):  # of each class, of which the digits have others
                value.pop("accuracy", None)
        if key not in ELSEWHERE | SLOW:
            found[key] = value
    return found


def smallest(model: str) -> str:
    """A small relative of a network; one of another library or of one's own stays, and so does `tiny`."""
    family = family_of(model)
    return RELATIVES[family.body.partition(":")[0]] if family and model != "tiny" else model


def is_rate(accuracy: object) -> bool:
    """Whether it is one for all classes, or one that changes from view to view."""
    return is_number(accuracy) or (isinstance(accuracy, str) and not set(accuracy) - set("0123456789.>"))


def few_classes(codec: object) -> object:
    """A codec that models fewer classes than the digits have."""
    return re.sub(r"topk:\d+", lambda k: f"topk:{min(int(k[0][5:]), 4)}", codec) if isinstance(codec, str) else codec


def at_most(most: int) -> Callable:
    """What shrinks a number; a value of another type is refused later, by those who know what it should be."""
    return lambda value: min(value, most) if is_number(value) else value


SMALLER: dict[str, Callable] = {
    "epochs": at_most(EPOCHS),
    "warmup": at_most(1),
    "batch": at_most(BATCH),
    "accumulate": at_most(2),
    "codec": few_classes,
    "fraction": lambda value: SHARE * value,
    "views": lambda value: VIEWS if value == "all" else at_most(VIEWS)(value),
    "model": smallest,
}
