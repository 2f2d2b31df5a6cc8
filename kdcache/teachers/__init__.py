"""Anything that answers a Batch with Knowledge. Training cannot tell which one it has."""

from kdcache.teachers.base import Forward, Teacher, no_teacher, require_finite
from kdcache.teachers.cached import CacheTeacher
from kdcache.teachers.live import LiveTeacher

__all__ = ["CacheTeacher", "Forward", "LiveTeacher", "Teacher", "no_teacher", "require_finite"]
