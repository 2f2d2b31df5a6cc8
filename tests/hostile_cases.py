"""What the tests of damaged and of made-up files share."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kdcache.cache import open_cache
from kdcache.cache.blocks import Blocks
from kdcache.cache.creation import lay_out
from kdcache.cache.layout import Layout, collect, read_layout, sealed_crc
from kdcache.errors import CacheError
from kdcache.proof.verdicts import verify


def refused(path: Path) -> str:
    """The one line that opening or verifying it ends in."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(CacheError) as caught:
            everything(path)
        assert time.monotonic() - started < 5
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    return said


def everything(path: Path) -> list:
    """All that a reader can get out of a cache that `verify` calls whole."""
    cache = open_cache(path, check=False)
    wrong = [check for check in verify(cache, None, None, None, {}) if not check.ok]
    if wrong:
        raise CacheError(path, "right checks", wrong[0].name, "look")
    rows, eval_rows = range(len(cache)), range(cache.meta["eval"]["rows"])
    arrays = [*cache.read_eval(eval_rows).values(), *cache.constants.values()]
    for view in range(cache.views):
        arrays += [*cache.read(view, rows).values(), torch.from_numpy(cache.seeds(view, rows))]
    known = [cache.labels, cache.digests, *cache.canaries.values()]
    return [cache.meta, sorted(cache.canaries), *(a.numpy().tobytes() for a in arrays), *(a.tobytes() for a in known)]


def forged(source: Path, path: Path, changes: dict | None = None, meta=None) -> Path:
    """A file like a finished one with some datasets changed, whose seal is right again."""
    changes, kinds, content = changes or {}, {}, {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            kinds[name], content[name] = (item.dtype, item.shape), item[...]

    with h5py.File(source) as file:
        file.visititems(visit)
    if meta is not None:
        text = meta if isinstance(meta, bytes) else json.dumps(meta(json.loads(bytes(content["meta"])))).encode()
        changes = changes | {"meta": np.frombuffer(text, dtype="u1")}
    content = {name: array for name, array in (content | changes).items() if array is not None}
    kinds |= {name: (array.dtype, array.shape) for name, array in changes.items() if array is not None}
    lay_out(path, {name: kinds[name] for name in content}, content)
    with h5py.File(path) as file:
        places = collect(path, file)
    with open(path, "r+b") as file:
        if "seal" in places:
            seal = sealed_crc(Layout(path, {}, places), file)
            os.pwrite(file.fileno(), seal.to_bytes(4, "little"), places["seal"].offset)
    return path


def mark(path: Path, dataset: str, view: int, block: int, word: bytes) -> None:
    """Has a file say something else of a block."""
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), word, read_layout(path).word_offset(dataset, view, block))


def array_in(path: Path, name: str) -> np.ndarray:
    """A dataset of a file that need not be finished."""
    with Blocks(read_layout(path)) as blocks:
        return blocks.array(name)
