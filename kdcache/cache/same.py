"""Whether two files, or a file and a request, are of the same dump, teacher or images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.cache.meta import APART, OPTIONAL
from kdcache.checks import short
from kdcache.errors import CacheError, OtherRequest, difference

if TYPE_CHECKING:
    from kdcache.cache.base import Store

NAMES = {"run_key": "seed", "source.fingerprint": "data", "eval.fingerprint": "evaluation data"}  # as users know them
OPTIONS = {"codec", "first_view", "forward", "method", "run_key", "view", "views"}  # of a header: what a user states
LOGIT_TOLERANCE = {"f32": 1e-4, "bf16": 3e-2}  # of the largest logit


def differing(meta: dict, request: dict) -> tuple[str, object, object] | None:
    """The first part of a request that differs from what a file holds: its name, what is stored, what is asked for."""
    asked = dict.fromkeys(APART) | json.loads(json.dumps(request))  # as it would be read back
    asked = {key: value for key, value in asked.items() if key not in OPTIONAL}
    stored = {key: meta.get(key) for key in asked}
    stored["source"] = meta["source"] | {"spec": asked["source"]["spec"]}  # it may lie in another folder by now
    if stored == asked:
        return None
    name, expected, found = difference(stored, asked)
    return NAMES.get(name, name), expected, found


def teacher_of(meta: dict) -> dict:
    """Who answered, whatever its taps are called and which are listed: that changes no answer."""
    return {key: value for key, value in meta["teacher"].items() if key not in ("taps", "shapes")}


def require_same(path: Path, meta: dict, request: dict, remedy: str, where: str = "in the file") -> None:
    """Refuses a request that differs from what a file holds."""
    if other := differing(meta, request):
        name, expected, found = other
        verdict = OtherRequest if name.partition(".")[0] in OPTIONS | {NAMES["run_key"]} else CacheError
        raise verdict(path, f"{name} {short(expected)}, as {where}", short(found), remedy)


def require_same_images(first: Store, other: Store) -> None:
    """Refuses a cache of other data, or of another view."""
    mine, theirs = first.meta["source"], other.meta["source"]
    for key in ("rows", "classes", "fingerprint"):
        if theirs[key] != mine[key]:
            expected = f"the data of {first.path}: {key} {short(mine[key], 40)}"
            raise CacheError(other.path, expected, f"{key} {short(theirs[key], 40)}", "join caches of the same data")
    if not np.array_equal(other.digests, first.digests):
        found = "other images under the same names"
        raise CacheError(other.path, f"the images of {first.path}", found, "join caches of the same data")
    if other.meta["view"] != first.meta["view"]:
        expected = f"the view of {first.path}, {first.meta['view']['view']}"
        raise CacheError(other.path, expected, other.meta["view"]["view"], "join caches of the same view")


def same_constants(one: Store, other: Store) -> bool:
    mine, theirs = one.constants, other.constants
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
