"""Which codec each knowledge gets, and how large its records are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kdcache.codecs import F16, Codec, asked, named
from kdcache.codecs.choose import auto, auto_values
from kdcache.errors import UsageError
from kdcache.methods import Method
from kdcache.types import Shapes


def codec_of(method: Method, name: str, codec: str) -> str:
    """The codec of knowledge by its name: the one that was asked for, else what the method wants, f32 beside f32."""
    wanted = asked(codec)
    return wanted.get(name) or method.codecs.get(name) or ("f32" if wanted["logits"] == "f32" else "f16")


def fitted(method: Method, name: str, values: Tensor, codec: str) -> tuple[Codec, list[dict]]:
    """The codec of such values, where `codec` is what was asked for; of `auto` also what was measured."""
    wanted = codec_of(method, name, codec)
    if wanted == "auto" and name != "logits":
        return auto_values(values)
    if wanted == "auto":
        return auto(values, shift_matters=method.shift_matters, tail_matters=method.tail_matters)
    needs = (method.shift_matters, method.tail_matters) if name == "logits" else ()
    return named(wanted, values, *needs), []


def record_sizes(method: Method, shapes: Shapes, codec: str = "f16", logits: Tensor | None = None) -> dict[str, int]:
    """Bytes of one record of each knowledge of a teacher of such shapes.

    A codec that measures is shown its logits; `auto` of anything else is taken for f16.
    """
    stored, sizes = method.stores(shapes), {}
    require_stored(codec, stored)
    for name, shape in stored.items():
        values = torch.ones(2, *shape)
        if name == "logits" and logits is not None:
            values = logits
        elif codec_of(method, name, codec) == "auto":
            sizes[name] = F16(shape).size
            continue
        sizes[name] = fitted(method, name, values, codec)[0].size
    return sizes


def require_stored(codec: str, stored: Iterable[str]) -> None:
    """Refuses a codec of embeddings where none are stored."""
    if "emb" in asked(codec) and "emb" not in stored:
        remedy = "leave emb= out, or take a method that reads embeddings"
        raise UsageError(f"`codec` {codec}", "embeddings among what is stored", ", ".join(stored), remedy)
