"""Who teaches, and what answers.

`Cached`, `Live`, `Pseudo` and `Alone` say who teaches a student and on which sample-views. Each of them, asked with a
method, gives what answers: Batch -> Knowledge, as `CacheTeacher`, `LiveTeacher` and `KnownTeacher` do. Training cannot
tell which one it has.
"""

from kdcache.teachers.base import ALONE, Alone, Answers, Drawn, Dumped, Forward, Teacher, no_teacher, require_finite
from kdcache.teachers.cached import Cached, CacheTeacher
from kdcache.teachers.known import KnownTeacher, Pseudo
from kdcache.teachers.live import Live, LiveTeacher, describe

__all__ = [
    "ALONE",
    "Alone",
    "Answers",
    "CacheTeacher",
    "Cached",
    "Drawn",
    "Dumped",
    "Forward",
    "KnownTeacher",
    "Live",
    "LiveTeacher",
    "Pseudo",
    "Teacher",
    "describe",
    "no_teacher",
    "require_finite",
]
