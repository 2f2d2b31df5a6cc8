"""HTML and SVG as values: whatever is put into an element is escaped, unless it is an element itself."""

from __future__ import annotations

from html import escape

VOID = ("img",)  # elements that end where they begin


class Markup(str):
    """Text that is markup already."""


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """An element. `class_` is the attribute class, `_` in others stands for `-`; what is None is left out.

    >>> tag("a", "<b>", href='x"y', class_=None)
    '<a href="x&quot;y">&lt;b&gt;</a>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>" if name in VOID else f"<{name}{given}>{join(*inside)}</{name}>")


def join(*parts: object) -> Markup:
    """Parts one after the other; lists among them are taken apart."""
    return Markup("".join(text(part) for part in parts))


def text(part: object) -> str:
    if isinstance(part, Markup):
        return part
    if isinstance(part, list | tuple):
        return join(*part)
    return "" if part is None else escape(str(part))


def number(value: object) -> str:
    """Places in a drawing need no more than two digits behind the point."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
