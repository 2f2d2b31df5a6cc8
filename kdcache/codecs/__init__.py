"""How one row of Knowledge becomes one fixed-size record, and back.

A codec is a frozen dataclass that writes itself into the file's header. It works on whole batches: `encode`
turns float tensors [n, *shape] into bytes, a uint8 tensor [n, record size]; `decode` does the reverse on any
device. Logits keep raw-logit semantics, so that any temperature stays free. To add one: a file, and a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcache.checks import advice
from kdcache.codecs.base import Codec
from kdcache.codecs.bits import Bits
from kdcache.codecs.int8 import Int8
from kdcache.codecs.logp8 import Logp8
from kdcache.codecs.plain import F16, F32
from kdcache.codecs.topk import TopK
from kdcache.errors import CacheError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CODECS", "EMBEDDING", "F16", "F32", "Bits", "Codec", "Int8", "Logp8", "TopK", "asked", "from_json", "named",
]  # fmt: skip

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (F32, F16, Int8, Logp8, TopK, Bits)}

EMBEDDING = ("auto", "f32", "f16", "int8")
"""What embeddings can be stored as: other codecs model the answers of a classifier."""


def asked(text: str) -> dict[str, str]:
    """The codecs that a user names by what they are of: `CODEC` of the logits, `emb=CODEC` of embeddings, or both.

    >>> asked("auto,emb=int8")
    {'logits': 'auto', 'emb': 'int8'}
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        of, equals, codec = part.strip().rpartition("=")
        of = of if equals else "logits"
        if of not in ("logits", "emb") or of in found:
            expected = "one codec of the logits, and one of embeddings"
            raise UsageError(f"`codec` {text}", expected, repr(part), "write it like f16,emb=int8")
        if of == "emb" and codec not in EMBEDDING:
            hint = advice(codec, EMBEDDING, "take emb=int8, or leave it out")
            raise UsageError(f"`codec` {text}", f"embeddings as {', '.join(EMBEDDING)}", repr(codec), hint)
        if of == "logits" and codec != "auto":
            known(codec)
        found[of] = codec
    return {"logits": "f16"} | found


def named(text: str, values: Tensor, shift_matters: bool = False, tail_matters: bool = False) -> Codec:
    """The codec that a user names, fitted to such values: `int8`, or `topk:16` for one with an argument."""
    name, argument = known(text)
    if shift_matters and not CODECS[name].keeps_shift:
        remedy = "take int8 or f16"
        raise UsageError(f"`codec` {text}", "a codec that keeps the level of logits, as the method needs", name, remedy)
    if tail_matters and not CODECS[name].keeps_all:
        remedy = "take int8 or f16"
        raise UsageError(f"`codec` {text}", "a codec that keeps every class, as the method needs", name, remedy)
    return CODECS[name].parse(argument, values)


def known(text: str) -> tuple[str, str]:
    """The name of a codec, which is one, and its argument."""
    name, _, argument = text.partition(":")
    if name not in CODECS or (argument and not CODECS[name].argument):
        every = ", ".join(f"{name}:{kind.argument}" if kind.argument else name for name, kind in CODECS.items())
        hint = advice(name, CODECS, "`kdcache list codecs` explains them")
        raise UsageError("`codec`", f"auto or one of {every}", repr(text), hint)
    return name, argument


def from_json(place: object, header: dict) -> Codec:
    """The codec that a header describes."""
    header = dict(header)
    name = header.pop("codec", None)
    if name not in CODECS:
        raise CacheError(place, f"a codec among {', '.join(CODECS)}", repr(name), "read it with a newer kdcache")
    try:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in header.items()}
        return CODECS[name](**fields | {"shape": tuple(int(n) for n in header["shape"])})
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise CacheError(place, f"the parameters of codec {name}", f"{header} ({error})", "dump it again") from None
