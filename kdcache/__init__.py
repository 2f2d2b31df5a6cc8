"""Run the teacher once, train any number of students from its stored answers, on exactly the pixels that it saw.

>>> import kdcache
>>> data = kdcache.CachedDataset("logits.h5")
>>> kdcache.Distiller(student="resnet20", teacher="logits.h5", method="st").compile(lr=0.1).fit(epochs=200)
>>> cache = kdcache.open_cache("logits.h5")
>>> cache.read(view=0, rows=[5, 3, 3])["logits"]
"""

import os
from typing import TYPE_CHECKING

from kdcache.on_demand import on_demand

# albumentations asks a package index for its newest version on import; offline that costs seconds in every worker
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"

_PLACES = {
    "api": "CachedDataset CachedStream Distiller KnowledgeLoss",
    "cache": "Cache open_cache",
    "cache.summary": "summary",
    "pseudo": "PseudoTeacher",
    "sources.arrays": "digest",
    "train": "Settings",
    "methods": "METHODS",
    "codecs": "CODECS",
    "errors": "KdcacheError",
}
__all__ = [
    "CODECS",
    "METHODS",
    "Cache",
    "CachedDataset",
    "CachedStream",
    "Distiller",
    "KdcacheError",
    "KnowledgeLoss",
    "PseudoTeacher",
    "Settings",
    "__version__",
    "digest",
    "open_cache",
    "summary",
]
if TYPE_CHECKING:  # the same for editors and type checkers
    from kdcache.api import CachedDataset, CachedStream, Distiller, KnowledgeLoss
    from kdcache.cache import Cache, open_cache
    from kdcache.cache.summary import summary
    from kdcache.codecs import CODECS
    from kdcache.errors import KdcacheError
    from kdcache.methods.table import METHODS
    from kdcache.pseudo import PseudoTeacher
    from kdcache.sources.arrays import digest
    from kdcache.train import Settings
else:
    __getattr__, __dir__ = on_demand(__name__, _PLACES)  # `kdcache --help` does not pay for torch
