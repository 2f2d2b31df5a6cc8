"""How counts and times are said."""


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
