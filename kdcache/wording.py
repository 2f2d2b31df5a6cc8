"""How counts, times and measurements are said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def printable(text: str) -> str:
    r"""The same, of names that are no UTF-8 with their bytes as numbers.

    >>> printable("caf\udce9.png")
    'caf\\udce9.png'
    """
    return text.encode(errors="backslashreplace").decode()


def count(number: int, what: str) -> str:
    """A number with its noun.

    >>> count(1, "view"), count(1200, "view")
    ('1 view', '1,200 views')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(0.3), duration(4), duration(190), duration(7500), duration(300000)
    ('0.3 s', '4 s', '3 min 10 s', '2 h 05 min', '3 d 11 h')
    """
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if round(seconds, 1) < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def readable(size: float) -> str:
    """A number of bytes.

    >>> readable(999), readable(1_234_567)
    ('999 B', '1.23 MB')
    """
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:,.2f} {unit}"
    return f"{size} B"


def exactness(found: dict | None) -> str:
    """Whether a teacher's answers depended on the images asked about with them, as it was measured."""
    if found is None:
        return "not measured"
    tried = f"{found['rows']} rows tried"
    if found["exact"]:
        return f"exact: the same bits whatever images are beside it ({tried})"
    return f"not exact: the images beside it move it by up to {found['relative']:.1e} of the largest value ({tried})"


def padded(strange: int) -> str:
    """Whether the bytes that belong to no data are zero."""
    return f"{count(strange, 'byte')} between the data not zero" if strange else "the bytes between the data are zero"


def by_colour(values: Iterable[float]) -> str:
    """Numbers for red, green and blue, as one types them.

    >>> by_colour([0.5, 0.25, 1 / 3])
    '0.5,0.25,0.333333'
    """
    return ",".join(f"{float(value):.6g}" for value in values)


def by(shape: Sequence[int]) -> str:
    """A shape, as people write it.

    >>> by([64, 8, 8])
    '64x8x8'
    """
    return "x".join(map(str, shape))


EVALUATION_VIEWS = {"none": "as they are", "centre": "the middle of each, resized"}


def evaluated(facts: Mapping) -> str:
    """Which images are evaluated, and at which size.

    >>> evaluated({"data": "digits", "rows": 360, "view": "none", "size": [32, 32]})
    '360 images of digits, as they are: 32x32'
    """
    how = EVALUATION_VIEWS.get(facts["view"], facts["view"])
    return f"{count(facts['rows'], 'image')} of {facts['data']}, {how}: {by(facts['size'])}"
