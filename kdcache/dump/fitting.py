"""Which codec each knowledge gets, and how large its records are."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcache.codecs import Codec, named
from kdcache.codecs.choose import auto
from kdcache.methods import Method
from kdcache.types import Shapes


def fitted(method: Method, name: str, values: Tensor, codec: str) -> tuple[Codec, list[dict]]:
    """The codec of such values, where `codec` is the one asked for the logits; of `auto` also what was measured."""
    wanted = method.codec_of(name, codec)
    if wanted == "auto":
        return auto(values, shift_matters=method.shift_matters, tail_matters=method.tail_matters)
    needs = (method.shift_matters, method.tail_matters) if name == "logits" else ()
    return named(wanted, values, *needs), []


def record_sizes(method: Method, shapes: Shapes, codec: str = "f16", logits: Tensor | None = None) -> dict[str, int]:
    """Bytes of one record of each knowledge of a teacher of such shapes; a codec that measures is shown its logits."""
    sizes = {}
    for name, shape in method.stores(shapes).items():
        values = torch.ones(2, *shape) if name != "logits" or logits is None else logits
        sizes[name] = fitted(method, name, values, codec)[0].size
    return sizes
