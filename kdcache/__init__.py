"""Run the teacher once, train any number of students from its stored answers, on exactly the pixels that it saw.

>>> import kdcache
>>> data = kdcache.CachedDataset("logits.h5")
>>> kdcache.Distiller(student="resnet20", teacher="logits.h5", method="st").compile(lr=0.1).fit(epochs=200)
>>> cache = kdcache.open_cache("logits.h5")
>>> cache.read(view=0, rows=[5, 3, 3])["logits"]
"""

import importlib
import os

# albumentations asks a package index for its newest version on import; offline that costs seconds in every worker
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"

_PLACES = {
    "CachedDataset": "kdcache.api",
    "Distiller": "kdcache.api",
    "Cache": "kdcache.cache",
    "open_cache": "kdcache.cache",
    "summary": "kdcache.cache.summary",
    "PseudoTeacher": "kdcache.pseudo",
    "Settings": "kdcache.train",
    "METHODS": "kdcache.methods",
    "CODECS": "kdcache.codecs",
    "KdcacheError": "kdcache.errors",
}
__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str):
    """Imports on first use, so that `kdcache --help` does not pay for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__():
    return sorted({*globals(), *_PLACES})
