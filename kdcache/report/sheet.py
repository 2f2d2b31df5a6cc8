"""A contact sheet: what the teacher saw, and what it said.

caption
            view 0    view 1    ...
label       pixels    pixels         one line for each image
row         top three as bars
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Cache
from kdcache.checks import short
from kdcache.errors import CacheError, KdcacheError, KdcacheWarning
from kdcache.seeds import CANARY, permutation
from kdcache.types import Batch
from kdcache.views import View

COLUMN, LARGEST, MARGIN = 96, 160, 150  # pixels: the narrowest column, the largest picture, the widest label
BAR, GAP, TOP = 14, 10, 3
INK, FAINT, PAPER, TRACK = (30, 30, 34), (120, 120, 124), (252, 252, 250), (236, 236, 232)
RIGHT, WRONG, OPEN = (140, 208, 168), (240, 176, 148), (172, 190, 220)  # the label's bar, another's, without a label
FONTS = (  # by name, as far as the system has them; the first that draws most of the letters is taken
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "DroidSansFallbackFull.ttf", "wqy-zenhei.ttc", "wqy-microhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "AppleGothic.ttf", "Arial Unicode.ttf", "Arial.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf",
)  # fmt: skip

Answer: TypeAlias = list[tuple[float, int]]
"""The likeliest classes of a teacher for one rendering, each with its share."""


def contact_sheet(cache: Cache, loader: Loader, rows: int | np.ndarray, views: int, path: Path) -> Path:
    """One line per image, one column per view; under each the three classes the teacher found likeliest.

    `rows` is how many, drawn by a key, or which.
    """
    if "logits" not in cache.names:
        remedy = "dump with `kdcache dump-logits --method st`"
        raise CacheError(cache.path, "logits", f"only {', '.join(cache.names)}", remedy)
    chosen = np.sort(permutation(len(cache), 0, use=CANARY)[:rows]) if isinstance(rows, int) else rows
    views = min(views, cache.views)
    answers = [likeliest(cache.read(np.full_like(chosen, v), chosen, ["logits"])["logits"]) for v in range(views)]
    sheet = Sheet(cache, chosen, answers, loader.view)
    for view in range(views):
        items = view * len(cache) + chosen
        batch = loader.show(items)
        for line in range(len(chosen)):
            sheet.add(view, line, batch)
    try:
        sheet.image.save(path, "PNG")
    except OSError as error:
        raise KdcacheError(
            path, "a picture to write", error.strerror or str(error), "name a file elsewhere with `out`"
        ) from None
    return path


def likeliest(logits: Tensor) -> list[Answer]:
    """Of each row."""
    top = logits.softmax(1).topk(min(TOP, logits.shape[1]))
    return [list(zip(*row, strict=True)) for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


class Sheet:
    """The picture, measured out before anything is drawn, so that nothing overlaps and nothing is cut off."""

    def __init__(self, cache: Cache, chosen: np.ndarray, answers: list[list[Answer]], rendering: View):
        from PIL import Image, ImageDraw

        self.answers, self.labels, views = answers, cache.labels_of(chosen), len(answers)
        self.height, self.width = tile(rendering.size)
        self.classes = cache.classes
        self.parts = BAR if rendering.mixes else 0  # a line that says what was mixed
        self.column = max(COLUMN, self.width)
        names = [cache.classes[label] if label >= 0 else "no label" for label in self.labels]
        said = {c: cache.classes[c] for view in answers for answer in view for _, c in answer}
        caption = caption_of(cache)
        self.small, self.font = (Script([*said.values(), *names], size) for size in (10, 13))
        self.plain = Script([caption], 12)  # whose blanks are seen: those of smaller letters are a pixel or two
        remark_undrawn(cache.path, self.font, self.plain)
        self.names = self.small.short(said, self.column - 8 - self.small.width("100"))
        names = [self.font.named(label, name) for label, name in zip(self.labels, names, strict=True)]
        labels = [self.font.wrapped(name, MARGIN, (self.height + 20) // 17) for name in names]
        rows = [f"row {row:,}" for row in chosen]
        written = [*(self.font.width(text) for label in labels for text in label), *map(self.small.width, rows)]
        self.left = GAP + max(written) + GAP
        across = self.left + views * (self.column + GAP)
        caption = self.plain.wrapped(caption, across - 2 * GAP, 9)
        self.top = GAP + 15 * len(caption) + 24
        self.cell = self.height + self.parts + 4 + min(TOP, len(cache.classes)) * BAR + GAP
        self.image = Image.new("RGB", (across, self.top + len(chosen) * self.cell), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        for line, text in enumerate(caption):
            self.pen.text((GAP, GAP + 15 * line), text, FAINT, self.plain.font)
        for view in range(views):
            self.pen.text((self.left + view * (self.column + GAP), self.top - 18), f"view {view}", INK, self.small.font)
        for line, (label, row) in enumerate(zip(labels, rows, strict=True)):
            for i, text in enumerate((*label, row)):
                script, colour = (self.small, FAINT) if text is row else (self.font, INK)
                self.pen.text((GAP, self.top + line * self.cell + 17 * i), text, colour, script.font)

    def add(self, view: int, line: int, batch: Batch) -> None:
        """One rendering and the answer to it."""
        from PIL import Image

        x, y = self.left + view * (self.column + GAP), self.top + line * self.cell
        image, labels = batch.images[line], [int(self.labels[line])]
        pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        way = Image.Resampling.NEAREST if image.shape[1] <= self.height else Image.Resampling.LANCZOS
        self.image.paste(pixels.resize((self.width, self.height), way), (x, y))
        if batch.shares is not None and batch.others is not None:
            labels.append(int(batch.others[line]))
            text = self.mixture(labels, float(batch.shares[line]))
            self.pen.text((x, y + self.height + 10), text, FAINT, self.small.font, "lm")
        for place, (share, c) in enumerate(self.answers[view][line]):
            self.bar(x, y + self.height + self.parts + 4 + place * BAR, share, c, labels)

    def mixture(self, labels: list[int], share: float) -> str:
        """Of what the picture is made, in percent."""
        named = [self.classes[c] if c >= 0 else "?" for c in labels]
        return self.small.cut(f"{100 * share:.0f} % {named[0]} + {100 * (1 - share):.0f} % {named[1]}", self.column)

    def bar(self, x: int, y: int, share: float, c: int, labels: list[int]) -> None:
        colour = OPEN if min(labels) < 0 else RIGHT if c in labels else WRONG
        self.pen.rectangle((x, y, x + self.column - 1, y + BAR - 2), TRACK)
        if (length := round(share * self.column)) > 0:
            self.pen.rectangle((x, y, x + length - 1, y + BAR - 2), colour)
        number = f"{100 * share:.0f}"
        self.pen.text((x + 3, y + 6), self.names[c], INK, self.small.font, "lm")
        self.pen.text((x + self.column - 3, y + 6), number, INK, self.small.font, "rm")


class Script:
    """A font of one size, and texts made to fit; letters that no font here has become plain ones."""

    def __init__(self, texts: Sequence[str], size: int):
        from PIL import ImageFont

        letters = {letter for text in texts for letter in text if not (letter.isascii() or letter.isspace())}
        self.font = ImageFont.load_default(size)
        self.known = drawn(self.font, letters)
        for name in (*FONTS, *matplotlibs_font()) if len(self.known) < len(letters) else ():
            try:
                font = ImageFont.truetype(name, size - 1)
            except OSError:
                continue
            if len(known := drawn(font, letters)) > len(self.known):
                self.font, self.known = font, known
        self.unknown = letters - self.known

    def plain(self, text: str) -> str:
        """The text in letters that the font has: é as e, others as a question mark."""

        def letter(one: str) -> str:
            if one in self.known or one.isascii():
                return one if one.isprintable() else " "
            return unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode() or "?"

        return "".join(map(letter, text))

    def width(self, text: str) -> int:
        return int(np.ceil(self.font.getlength(text)))

    def cut(self, text: str, width: int) -> str:
        """The text, its middle left out where it is too wide."""
        text = self.plain(text)
        if self.width(text) <= width:
            return text
        fits = bisect_right(range(len(text)), width, key=lambda kept: self.width(middle_out(text, kept)))
        return middle_out(text, max(0, fits - 1))

    def short(self, names: Mapping[int, str], width: int) -> dict[int, str]:
        """Names that fit; those that would look alike begin with the number of their class."""
        shown = {c: self.cut(self.named(c, name), width) for c, name in names.items()}
        times = Counter(shown.values())
        return {c: self.cut(f"{c} {names[c]}", width) if times[text] > 1 else text for c, text in shown.items()}

    def named(self, c: int, name: str) -> str:
        """The class by name, with its number where some letters cannot be drawn."""
        return f"{c} {name}" if self.plain(name).count("?") > name.count("?") else name

    def wrapped(self, text: str, width: int, most: int) -> list[str]:
        """The text in lines, broken after blanks, dashes and underscores where there are some; the last one is cut."""
        rest = self.plain(text).strip()
        lines: list[str] = []
        while rest and len(lines) < most - 1 and self.width(rest) > width:
            fits = max(n for n in range(1, len(rest) + 1) if n == 1 or self.width(rest[:n]) <= width)
            breaks = [n for n in range(fits // 2, fits + 1) if rest[n - 1 : n] in (" ", "-", "_", ",")]
            end = breaks[-1] if breaks else fits
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        return [*lines, self.cut(rest, width)] if rest else lines or [""]


def drawn(font, letters: set[str]) -> set[str]:
    """The letters that a font has: those it lacks look like U+FFFF, which no font has."""
    lacking = bytes(font.getmask("\uffff"))
    return {letter for letter in letters if bytes(font.getmask(letter)) != lacking}


def matplotlibs_font() -> list[str]:
    """The one that comes with matplotlib, where that is installed: Latin, Greek, Cyrillic and Arabic letters."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return []
    return [os.path.join(os.path.dirname(found.origin), "mpl-data/fonts/ttf/DejaVuSans.ttf")]


def remark_undrawn(place: object, *scripts: Script) -> None:
    """Says that names are not shown as they are written, and what would help."""
    letters = "".join(sorted(set().union(*(script.unknown for script in scripts))))
    if letters:
        remedy = "a font such as Noto Sans CJK on this system would draw them"
        text = f"{place}: no font here has {short(letters, 40)}, drawn as plain letters or question marks; {remedy}"
        warnings.warn(text, KdcacheWarning, stacklevel=2)


def middle_out(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def tile(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the pictures: small ones enlarged by whole pixels, large ones shrunk, none distorted."""
    longer = max(size)
    scale = max(1, round(COLUMN / longer + 0.2)) if longer < COLUMN else min(1.0, LARGEST / longer)
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def caption_of(cache: Cache) -> str:
    meta = cache.meta
    teacher = meta["teacher"].get("model", meta["teacher"].get("kind", "the teacher"))
    source, view = meta["source"]["spec"], meta["view"]["view"]
    return f"{source} as {view}, and what {teacher} makes of it, in percent; green is the label's"
