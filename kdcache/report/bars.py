"""A picture of shares, as bars that lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdcache.errors import KdcacheError
from kdcache.report.plot import DPI, require_matplotlib


def draw(path: Path, title: str, shares: Mapping[str, float]) -> Path:
    """A PNG with a bar for each name, the longest on top."""
    require_matplotlib()
    from matplotlib.figure import Figure

    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure((7.0, 1.2 + 0.45 * len(names)), DPI, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="share of the differences in accuracy, %")
    bars = axes.barh(names, [100 * shares[name] for name in names], color="C0", height=0.6)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.margins(x=0.1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise KdcacheError(path, "a picture to write", error.strerror or str(error), "name a file elsewhere") from None
    return path
