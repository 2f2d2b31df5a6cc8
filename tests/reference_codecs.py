"""Codecs read a second time, with NumPy alone, and what the tests of codecs share."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from kdcache.codecs import CODECS, TopK, from_json

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"


def synthetic(n, classes, seed=0, sharp=1.0):
    """Logits with a few likely classes and a tail that has a shape."""
    g = torch.Generator().manual_seed(seed)
    words = torch.nn.functional.normalize(torch.randn(classes, 64, generator=g), dim=1)
    image = words[torch.randint(classes, (n,), generator=g)] * (6 + 12 * torch.rand(n, 1, generator=g))
    return ((image + 1.2 * torch.randn(n, 64, generator=g)) @ words.T) * sharp


def fitted(name, values):
    """Some settings of one codec, for these rows."""
    if name != "topk":
        return [CODECS[name].fit(values)]
    classes = values.shape[1]
    return [TopK.fit(values, k) for k in sorted({1, 2, min(5, classes), classes - 1, classes})]


def numpy_decode(codec, records):
    """The record as someone with NumPy and the header reads it."""
    bits = np.unpackbits(np.ascontiguousarray(records), axis=1, bitorder="little")
    if codec.name == "bits":
        return bits[:, : math.prod(codec.shape)].astype(np.float32).reshape(-1, *codec.shape)
    if codec.name == "logp8":
        knots, between = np.array(codec.knots), np.arange(15) / 15
        table = [a + (b - a) * w for a, b in pairwise(knots) for w in between]
        return -np.float32([*table, knots[-1]])[records]
    if codec.name in ("f32", "f16"):
        return records.view(codec.dtype.base).astype(np.float32).reshape(-1, *codec.shape)
    fields = np.ascontiguousarray(records).view(codec.dtype)[:, 0]
    if codec.name == "int8":
        one = (-1, *[1] * len(codec.shape))
        scale, offset = (fields[key].astype(np.float32).reshape(one) for key in ("scale", "offset"))
        return (offset + scale * fields["codes"]) * np.float32(codec.unit)
    return numpy_topk(codec, fields)


def numpy_topk(codec, fields):
    n, (classes,) = len(fields), codec.shape
    width = max(1, math.ceil(math.log2(classes)))
    bits = np.unpackbits(fields["ids"], axis=1, bitorder="little")[:, : codec.k * width].reshape(n, codec.k, width)
    ids = (bits.astype(np.int64) << np.arange(width)).sum(2)
    steps = np.array([c + round(c**3 * 65280 / 255**3) for c in range(256)])
    parts = [np.zeros((n, 1), np.int64)]
    parts += [fields["wide"].astype(np.int64)] if codec.wide else []
    parts += [steps[fields["gaps"]]] if codec.k - 1 > codec.wide else []
    head = fields["head"].astype(np.float32)[:, None]
    dense = np.empty((n, classes), np.float32)
    if codec.k < classes:
        dense[:] = head + fields["tail"].astype(np.float32)[:, None] - np.float32(math.log(classes - codec.k))
    depth = (np.concatenate(parts, 1).cumsum(1) * codec.unit).astype(np.float32)
    np.put_along_axis(dense, ids, head - depth, 1)
    return dense


def check(codec, values):
    """Width, bound, NumPy's view and a header that rebuilds the codec."""
    records = codec.encode(values)
    assert records.shape == (len(values), codec.size)
    assert records.dtype == torch.uint8
    assert codec.dtype.itemsize == codec.size
    decoded = codec.decode(records)
    assert decoded.dtype == torch.float32
    assert decoded.shape == values.shape
    np.testing.assert_array_equal(decoded.numpy(), numpy_decode(codec, records.numpy()))
    np.testing.assert_array_equal(decoded.numpy(), codec.decode_numpy(records.numpy()))
    error = (decoded.double() - codec.ideal(values)).abs()
    assert torch.isfinite(error).all()
    assert (error <= codec.bound(values)).all(), (error - codec.bound(values)).max()
    assert from_json("x.h5", json.loads(json.dumps(codec.to_json()))) == codec
    return decoded
