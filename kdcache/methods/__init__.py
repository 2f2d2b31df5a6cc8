"""Distillation methods by name. A new one is a file with a class and a line in `names.py`.

>>> from kdcache.methods import build
>>> method = build("st:0.9+at:1000", student_shapes, teacher_shapes)
"""

import importlib

_PLACES = {
    "base": "Method",
    "compose": "Part build described parse split",
    "names": "ALIASES PLACES",
    "sums": "RawTaps Sum",
    "svd": "clipped_gradients",
    "table": "METHODS",
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str):
    """Imports on first use, as names need no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'kdcache.methods' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kdcache.methods.{_MODULES[name]}"), name)


def __dir__():
    return sorted({*globals(), *_MODULES})
