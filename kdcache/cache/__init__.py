"""One HDF5 file of records, seeds and identities."""

from kdcache.cache.base import Store
from kdcache.cache.creation import create
from kdcache.cache.reader import Cache, open_cache
from kdcache.cache.writer import Writer

__all__ = ["Cache", "Store", "Writer", "create", "open_cache"]
