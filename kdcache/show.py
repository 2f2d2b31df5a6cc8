"""A contact sheet: what the teacher saw, and what it said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Cache
from kdcache.errors import CacheError, KdcacheError
from kdcache.seeds import CANARY, permutation

TILE, BAR, GAP, TOP = 96, 13, 10, 3
INK, PAPER, RIGHT, WRONG = (30, 30, 34), (252, 252, 250), (46, 134, 92), (200, 92, 60)


def contact_sheet(cache: Cache, loader: Loader, rows: int, views: int, path: Path) -> Path:
    """One line per image, one column per view; under each the three classes the teacher found likeliest."""
    from PIL import Image, ImageDraw, ImageFont

    if "logits" not in cache.names:
        raise CacheError(cache.path, "logits", f"only {', '.join(cache.names)}", "dump with --method st as well")
    views = min(views, cache.views)
    chosen = np.sort(permutation(len(cache), 0, use=CANARY)[:rows])
    font, small = ImageFont.load_default(13), ImageFont.load_default(10)
    names = [cache.classes[label] if label >= 0 else "no label" for label in cache.labels[chosen]]
    margin = GAP + 8 + int(max(font.getlength(f"{row}") for row in [*names, "row 0000000"]))
    cell = TILE + TOP * BAR + GAP
    sheet = Image.new("RGB", (margin + views * (TILE + GAP) + GAP, 30 + len(chosen) * cell + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for view in range(views):
        pen.text((margin + view * (TILE + GAP), 9), f"view {view}", INK, small)
        images = loader.images(view * len(cache) + chosen)
        shares = cache.read(view, chosen, ["logits"])["logits"].softmax(1)
        for line, (image, share) in enumerate(zip(images, shares, strict=True)):
            place = (margin + view * (TILE + GAP), 30 + line * cell)
            pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
            scale = Image.Resampling.NEAREST if image.shape[1] < TILE else Image.Resampling.LANCZOS
            sheet.paste(pixels.resize((TILE, TILE), scale), place)
            draw_bars(pen, (place[0], place[1] + TILE + 2), share, cache, int(cache.labels[chosen[line]]), small)
    for line, (row, name) in enumerate(zip(chosen, names, strict=True)):
        pen.text((GAP, 30 + line * cell + TILE // 2 - 14), name, INK, font)
        pen.text((GAP, 30 + line * cell + TILE // 2 + 4), f"row {row}", (120, 120, 124), small)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise KdcacheError(path, "a picture to write", error.strerror or str(error), "choose another -o") from None
    return path


def draw_bars(pen, place: tuple[int, int], share: Tensor, cache: Cache, label: int, font) -> None:
    """Green for the label's own bar."""
    top = share.topk(min(TOP, len(share)))
    for line, (p, c) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
        x, y = place[0], place[1] + line * BAR
        pen.rectangle((x, y + 1, x + TILE - 1, y + BAR - 2), fill=(234, 234, 230))
        if p * TILE >= 1:
            pen.rectangle((x, y + 1, x + round(p * (TILE - 1)), y + BAR - 2), fill=RIGHT if c == label else WRONG)
        inside = p > 0.3
        text = cache.classes[c][:12]
        pen.text((x + 3, y), text, PAPER if inside else INK, font)
        number = f"{100 * p:.0f}"
        pen.text((x + TILE - 3 - font.getlength(number), y), number, PAPER if p > 0.85 else INK, font)
