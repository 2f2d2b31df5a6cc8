"""Plots show every point and name what they show; without matplotlib there are none, and all the rest."""

import json
import sys
from itertools import combinations

import pytest
from cli_cases import refused
from matplotlib.figure import Figure
from PIL import Image

from kdcache.errors import KdcacheError
from kdcache.report import plot
from kdcache.report.plot import Series

LINE = Series("line", [(0.5, 94.0, 0.5), (0.9, 96.0, 0.4), (0.7, 95.0, 0.3)])
LEVEL, ALONE = Series("level", [(None, 95.5, 0.2)]), Series("alone", [(0.6, 97.0, 0.1)])
LABELLED = Series("s", [(10.0 + x, 10.0**-x, 0) for x in range(4)] + [(12.0, 0, 0)], [f"point {i}" for i in range(5)])


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, and gives the axes to look at."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))

    def run(*series, **options):
        path = plot.draw(tmp_path / "x.png", "title", "x", "y", series, **options)
        with Image.open(path) as picture:
            assert picture.width >= 1200
        return figures[-1].axes[0]

    return run


def test_ticks_are_where_the_points_are(drawn):
    assert list(drawn(LINE, LEVEL, ALONE).get_xticks()) == [0.5, 0.6, 0.7, 0.9]


def test_the_numbers_of_ticks_have_room(drawn):
    crowd = Series("crowd", [(x / 200, x, 0) for x in range(200)])
    axes = drawn(crowd)
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert 10 < len(boxes) < 40
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_bands_are_explained(drawn):
    shown = [text.get_text() for text in drawn(LINE, LEVEL, ALONE, interval="95 %").figure.legends[0].get_texts()]
    assert shown == ["line", "level", "alone", "95 %"]
    shown = [text.get_text() for text in drawn(LABELLED, interval="95 %").figure.legends[0].get_texts()]
    assert shown == ["s"]


def test_every_point_is_seen(drawn):
    axes = drawn(LINE, LEVEL, ALONE)
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    for x, y, half in LINE.points + LEVEL.points + ALONE.points:
        assert low < y - half < y + half < high
        assert x is None or left < x < right


@pytest.mark.parametrize("log", [False, True])
def test_labels_do_not_cover_each_other(drawn, log):
    axes = drawn(LABELLED, log=log)
    assert {note.get_text() for note in axes.texts} == set(LABELLED.labels)
    assert not any(a.get_window_extent().overlaps(b.get_window_extent()) for a, b in combinations(axes.texts, 2))


def test_zero_has_a_place_among_magnitudes(drawn):
    axes = drawn(LABELLED, log=True)
    heights = [axes.transData.transform((10, y))[1] for y in (0, 1e-3, 1e-2, 1e-1)]
    assert heights == sorted(heights)
    assert 0 in axes.get_yticks()


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(KdcacheError, match="a picture to write"):
        plot.draw(tmp_path / "none" / "x.png", "", "", "", [LINE])


def test_points_are_kept(tmp_path):
    (found,) = json.loads(plot.save_points(tmp_path / "points.json", [LINE]).read_text())
    assert (found["name"], found["points"]) == (LINE.name, [list(point) for point in LINE.points])


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(f"bench codecs --plot {tmp_path}/x.png", 1, "pip install 'kdcache[plot]'")
