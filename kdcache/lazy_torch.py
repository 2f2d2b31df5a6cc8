"""torch, imported when something of it is first used: `from kdcache import lazy_torch as torch`.

Its import takes two seconds. What names, describes and sizes codecs, views, sources and caches does without.
"""


def __getattr__(name: str):
    import torch

    found = globals()[name] = getattr(torch, name)  # kept: a batch of records is read in microseconds
    return found
