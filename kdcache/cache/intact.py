"""Whether a file is finished and its header as it was sealed."""

from __future__ import annotations

from kdcache.cache.blocks import Blocks
from kdcache.cache.layout import Layout, merging, sealed, sealed_crc
from kdcache.errors import CacheError


def require_finished(layout: Layout) -> int:
    """Refuses a shard, and a file with open blocks or a wrong seal, whatever its name; its seal."""
    if "shard" in layout.meta:
        found = f"a shard, {layout.shard.number + 1} of {layout.shard.of}"
        remedy = f"merge them first: {merging(layout.path, layout.shard)}"
        raise CacheError(layout.path, "a finished cache", found, remedy)
    return require_intact(layout)


def require_intact(layout: Layout) -> int:
    """Refuses a file that lacks blocks which are to be in it, or has a wrong seal; its seal."""
    with Blocks(layout) as blocks:
        for name in layout.filled():
            if missing := blocks.missing(name):
                found = f"{missing} of {int(layout.share(name).sum())} blocks of {name} missing"
                raise CacheError(layout.path, "a finished cache", found, "run the same command again to finish it")
        seal = require_seal(blocks, "copy or dump it again")
        bounds = {"labels": (-1, len(layout.meta["source"]["classes"])), "canaries/row": (0, layout.rows)}
        covered = sealed(layout.places)
        for name, (low, high) in (bounds | {"canaries/view": (0, layout.views)}).items():
            for values in blocks.pieces(name) if name in covered else ():
                if not (low <= values.min() and values.max() < high):
                    found = f"{values.min()} to {values.max()}"
                    raise CacheError(f"{layout.path}:/{name}", f"{low} to {high - 1}", found, "dump it again")
    return seal


def require_seal(file: Blocks, remedy: str) -> int:
    """Refuses a file whose header, labels (or their words), canaries or constants are other ones than at its beginning;
    its seal."""
    seal = int(file.array("seal")[0])
    if seal != sealed_crc(file.layout, file.file):
        raise CacheError(file.layout.path, "an intact header", "a wrong seal", remedy)
    return seal


def require_seal_if_any(file: Blocks) -> bool:
    """The same of an unfinished file; whether it has a seal, as one that an earlier version began has none yet."""
    if not file.array("seal")[0]:
        return False
    require_seal(file, "remove it and run the command again")
    if "labels" in file.layout.filled():
        file.require_blocks("labels")
    return True
