"""Distillation methods by name. A new one is a file with a class and a line in `names.py`.

>>> from kdcache.methods import build
>>> method = build("st:0.9+at:1000", student_shapes, teacher_shapes)
"""

from kdcache.on_demand import on_demand

__getattr__, __dir__ = on_demand(  # as names need no torch
    __name__,
    {
        "base": "Method labelled",
        "compose": "Part build described parse split together",
        "names": "ALIASES PLACES",
        "sums": "Asked RawTaps Sum",
        "svd": "clipped_gradients",
        "table": "METHODS",
    },
)
