"""All randomness that must last: Philox4x32-10, counter based, the same on every machine and device.

    run key (--seed) --Philox(row, view)--> 64-bit seed of a sample-view --Philox(n, stream)--> draws of its rendering

The arithmetic is written once for NumPy int64 arrays and for torch int64 tensors: both wrap on overflow,
and a 32-bit word is an int64 between 0 and 2**32-1.

>>> import numpy as np
>>> seeds = sample_seeds(7, view=np.int64([0, 0, 1]), rows=np.int64([0, 1, 0]))
>>> crop_y = below(draw(seeds, n=0, stream=GEOMETRY)[0], 9)
"""

from __future__ import annotations

import math

import numpy as np

MASK = 0xFFFFFFFF
# streams of one rendering: a new draw never shifts another
GEOMETRY, COLOUR, ERASING, MIXING, LIBRARY, POLICY = range(6)
# what a run key is used for, in the last counter word
SEEDS, ORDER, PART, CANARY, SYNTHETIC, PROBE, ENUMERATION, ERRING, ANSWER, SPREAD, PARTNER, HELD_OUT, VISIT = range(13)


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four counter words and two key words in, four random words out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    with np.errstate(over="ignore"):  # arrays wrap in silence, but NumPy warns where a scalar does
        for _ in range(10):
            p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
            # only what is multiplied next has to be within 32 bits: fewer masks, for few numbers cost by the operation
            c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & MASK, p0
            k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1 & MASK, c2, c3 & MASK


def halves(seed):
    """The low and the high word of 64-bit seeds."""
    return seed & MASK, (seed >> 32) & MASK


def draw(seeds, n, stream: int):
    """Four words per seed; `n` counts the draws of one stream and may be an array that broadcasts."""
    zero = (seeds & 0) + (n & 0)
    return philox((zero + n, zero + stream, zero, zero), halves(seeds))


def keyed(key: int, index, view=0, use: int = ORDER):
    """Four words per index under a run key."""
    zero = (index & 0) + (view & 0)
    low, high = halves(index)
    return philox((zero + low, zero + high, zero + view, zero + use), halves(key))


def sample_seeds(key: int, view, rows):
    """The 64-bit seeds of sample-views, as int64 bit patterns."""
    low, high, _, _ = keyed(key, rows, view, SEEDS)
    return (high << 32) | low


def sample_views(key: int, count: int, rows: int, views: int, use: int) -> np.ndarray:
    """Item numbers v*N+i of at most `count` sample-views out of all rows and views, increasing."""
    of_row, of_view, _, _ = keyed(key, np.arange(count, dtype=np.int64), use=use)
    return np.unique(below(of_view, views) * rows + below(of_row, rows))


def below(word, n):
    """A word as an integer from 0 to n-1."""
    return (word * n) >> 32


def permutation(n: int, key: int, epoch: int = 0, use: int = ORDER) -> np.ndarray:
    """A keyed order of 0..n-1."""
    a, b, _, _ = keyed(key, np.arange(n, dtype=np.int64), epoch, use)
    return np.argsort((a << 31) ^ b, kind="stable")


def bijection(index, n: int, key: int, tweak=0, use: int = ORDER):
    """A keyed one-to-one map of 0..n-1 onto itself, another one for every tweak; `index` is an array.

    A Feistel network over an a x b grid, of n places where n has such factors, else of hardly more: what falls
    outside walks on until it is in.
    """
    root = math.isqrt(n)
    a = next((d for d in range(root, max(root // 2, 1), -1) if n % d == 0), math.isqrt(n - 1) + 1)
    b = -(-n // a)
    out = _feistel(index, a, b, key, tweak, use)
    tweak = tweak + (out & 0)  # one for each
    while (outside := out >= n).any():
        out[outside] = _feistel(out[outside], a, b, key, tweak[outside], use)
    return out


def _feistel(index, a: int, b: int, key: int, tweak, use: int, rounds: int = 8):
    left, right = index // b, index % b
    for r in range(0, rounds, 2):
        left = (left + below(keyed(key, right + (r << 32), tweak, use)[0], a)) % a
        right = (right + below(keyed(key, left + ((r + 1) << 32), tweak, use)[0], b)) % b
    return left * b + right
