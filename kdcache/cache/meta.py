"""The form that a file's header, /meta, must have; all of it is checked here, so that code behind can rely on it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from kdcache.checks import quoted, short
from kdcache.errors import CacheError

FORMAT, VERSION = "kdcache", 2
READABLE = (1, 2)
LABEL_BLOCKS = "label-blocks"  # labels are checked block by block, as records are, and the seal covers their words
FEATURES = frozenset({"shard", LABEL_BLOCKS})  # required features that this reader understands
MANY_ROWS = 1 << 24  # from so many on, a new file has blocks of labels; of fewer, all are checked in some 0.05 s
LONGEST = 64 << 20  # bytes of a header; one of 20 000 classes has less than one of them
REMEDY = "copy or dump it again"


def text(value) -> bool:
    return isinstance(value, str)


def count(value) -> bool:
    return type(value) is int and 0 < value < 1 << 40


def count_or_none(value) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def key(value) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 64


def share(value) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def side(value) -> bool:
    return type(value) is int and 0 < value <= 1 << 15


def table(value) -> bool:
    return isinstance(value, dict)


def flag(value) -> bool:
    return isinstance(value, bool)


def by_temperature(value) -> bool:
    """What a codec gets wrong at each temperature."""
    return isinstance(value, dict) and all(
        re.fullmatch(r"\d{1,9}(\.\d{1,17})?(e[+-]?\d{1,3})?", name)
        and isinstance(of, dict)
        and type(of.get("mean")) in (int, float)
        for name, of in value.items()
    )


def difference(value) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


EVERY = "*"  # stands for any key: all its values have the form that follows
FORM = {
    "source": {
        "spec": text,
        "split": text,
        "rows": count,
        "classes": [text],
        "fraction": share,
        "fingerprint": text,
        "kept?": [[count_or_none]],
    },
    "eval": {"rows": count_or_none},
    "view": {"view": text, "size": [side], "of?": table},
    "views": count,
    "block_rows": count,
    "run_key": key,
    "teacher": {"kind?": text, "model?": text, "fingerprint?": text, "taps?": text, "shapes?": {EVERY: [count]}},
    "forward": {"batch?": count, "dtype?": text, "channels_last?": flag, "tf32?": flag, "compile?": flag},
    "method": text,
    "codec": text,
    "knowledge": {EVERY: table},
    "libraries": {EVERY: text},
}
"""A dict asks for these keys (others are welcome, and those with a question mark may be missing), a list for that form
of each element, a function for True."""

OPTIONAL = {"exactness": {"rows": count, "exact": flag}, "loss": text}
"""What a header may say of how its file was made; nothing is refused for it."""

APART = {
    "shard": {"number": count, "of": count},
    "pruned_from": {"views": [count_or_none], "of": count, "knowledge": [text], "rows?": count},
}
MEASURED = {EVERY: [{"codec": text, "bytes": count, "kl?": by_temperature, "error?": difference}]}
"""What only the header of a file has that is not the whole answer to a request."""


def required(rows: int, shard: bool = False) -> list[str]:
    """What a reader of a new file has to understand."""
    return ["shard"] * shard + [LABEL_BLOCKS] * (rows >= MANY_ROWS)


def read_header(path: Path, data: bytes) -> dict:
    """The header, once it is known that every part has the form that the code behind relies on."""
    try:
        meta = json.loads(data.decode(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path}:/meta", "JSON", str(error), REMEDY) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or type(meta.get("version")) is not int:
        raise CacheError(path, f"{FORMAT} version {VERSION}", "another header", "see import-logits to wrap logits")
    if meta["version"] not in READABLE:
        remedy = "read it with the kdcache that wrote it" if meta["version"] > VERSION else REMEDY
        raise CacheError(
            path, f"{FORMAT} version {' or '.join(map(str, READABLE))}", f"version {meta['version']}", remedy
        )
    require_form(path, meta.get("requires"), [text], "requires")
    if strange := set(meta["requires"]) - FEATURES:
        raise CacheError(path, "features that this version knows", repr(sorted(strange)), "update kdcache")
    require_form(path, meta, FORM, "header")
    known = OPTIONAL | APART
    for name in known.keys() & meta.keys():
        require_form(path, meta[name], known[name], name)
    if not meta.get("exactness", {"exact": True})["exact"]:
        require_form(path, meta["exactness"], {"absolute": difference, "relative": difference}, "exactness")
    require_form(path, meta.get("measured", {}), MEASURED, "measured")
    if strange := meta.get("measured", {}).keys() - meta["knowledge"].keys():
        raise CacheError(path, "measured knowledge that is stored", short(sorted(strange)), REMEDY)
    if "pruned_from" in meta and len(meta["pruned_from"]["views"]) != meta["views"]:
        found = f"{len(meta['pruned_from']['views'])}"
        raise CacheError(path, f"{meta['views']} views that it was pruned to", found, REMEDY)
    if not meta["knowledge"] or len(meta["view"]["size"]) != 2:
        found = f"{len(meta['knowledge'])} kinds of knowledge, a view of size {meta['view']['size']}"
        raise CacheError(path, "some knowledge, and a view of height and width", found, REMEDY)
    return meta


def refuse_constant(name: str):
    raise ValueError(f"{name} in it")


def require_form(path: Path, value, form, where: str) -> None:
    """Refuses a value that has another form, and says where it stands."""
    if isinstance(form, dict) and isinstance(value, dict):
        for key in value if EVERY in form else form:
            name = key.removesuffix("?") if EVERY not in form else key
            if name not in value and name != key:
                continue
            if name not in value:
                raise CacheError(path, f"{where}.{name}", "no such entry", REMEDY)
            require_form(path, value[name], form.get(EVERY) or form[key], f"{where}.{name}")
    elif isinstance(form, list) and isinstance(value, list):
        for element in value:
            require_form(path, element, form[0], where)
    elif isinstance(form, dict | list) or not form(value):
        raise CacheError(path, f"a sensible {where}", quoted(value), REMEDY)


def to_bytes(meta: dict) -> np.ndarray:
    """The header as it lies in the file; the same dict gives the same bytes."""
    try:
        return np.frombuffer(json.dumps(meta, sort_keys=True, allow_nan=False).encode(), dtype=np.uint8)
    except ValueError:
        raise CacheError(
            "header", "finite numbers", "NaN or an infinity", "look for it in the view's pipeline"
        ) from None
