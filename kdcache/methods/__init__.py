"""Distillation methods by name. A new one is a file with a class and a line in `table.py`.

>>> method = build("st:0.9+at:1000", student_shapes, teacher_shapes)
"""

from kdcache.methods.base import Method
from kdcache.methods.compose import Part, RawTaps, Sum, build, described, knowledge_of, parse, split
from kdcache.methods.svd import clipped_gradients
from kdcache.methods.table import METHODS

__all__ = [
    "METHODS",
    "Method",
    "Part",
    "RawTaps",
    "Sum",
    "build",
    "clipped_gradients",
    "described",
    "knowledge_of",
    "parse",
    "split",
]
