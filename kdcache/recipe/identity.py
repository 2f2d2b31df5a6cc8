"""What a stage depends on, in a few words that change when it does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from kdcache import jobs
from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.models import runs_user_code
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.weights import fingerprint
from kdcache.train import Settings


def images_of(data: jobs.Data) -> dict:
    """The identity of all that a stage sees of the data."""
    evaluated = data.held_out.fingerprint() if len(data.held_out) else None
    return {"data": data.train.identity(), "evaluated": evaluated, "view": data.view.to_json()}


def told(facts: Mapping) -> dict:
    """Without what is not there, so that a fact which is new with a version does not change old keys."""
    return {name: fact for name, fact in facts.items() if fact is not None and fact is not False}


def code_of(model: str, data: jobs.Data) -> str | None:
    """What tells one version of a user's network from another: its fresh weights."""
    return fingerprint(data.network(model, 0)) if runs_user_code(model) else None


def content(path: str | os.PathLike) -> str:
    """A hash of a file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KdcacheError(path, "a file to read", error.strerror or str(error), "check the path") from None


def begun(settings: Settings) -> str | None:
    """What tells the weights that a training begins with from others; of a library, their name is in the settings."""
    return None if settings.init_from in (None, PRETRAINED) else content(settings.init_from)


def weights_facts(path: str) -> str:
    """What tells weights that are given from others."""
    return path if path == PRETRAINED else content(path)


def cache_facts(path: Path) -> dict:
    """What tells a finished cache from any other."""
    cache = open_cache(path)
    return {"header": hashlib.sha256(json.dumps(cache.meta, sort_keys=True).encode()).hexdigest(), "seal": cache.seal}


def pseudo_facts(asked: Mapping) -> dict:
    """What is asked of a made-up teacher; a file by its content, or by its header."""
    found = dict(asked)
    for key in ("confusion", "like"):
        if (path := asked.get(key)) and os.path.isfile(path):
            found[key] = cache_facts(Path(path)) if key == "like" and not path.endswith(".npy") else content(path)
    return found
