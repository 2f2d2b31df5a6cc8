"""The contact sheet: every text fits its place, no picture is distorted, every row tells what it should."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_cases import refused
from PIL import Image, ImageDraw

from kdcache.errors import KdcacheWarning
from kdcache.report import sheet as show
from kdcache.report.sheet import Script, contact_sheet, tile
from kdcache.types import Batch

LONG = [f"class number {i:03} of a long name" for i in range(120)]


class Made:
    """Enough of a cache and of a loader."""

    path, names = Path("made.h5"), ["logits"]

    def __init__(self, classes, labels, size=(32, 32), views=3, mixes=False):
        self.classes, self.labels, self.views = list(classes), np.array(labels), views
        self.meta = {"source": {"spec": "made"}, "view": {"view": "crop"}, "teacher": {"model": "tiny-3"}}
        self.view = SimpleNamespace(size=size, mixes=mixes)
        self.logits = torch.randn(views, len(labels), len(self.classes), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.labels)

    def labels_of(self, rows):
        return self.labels[rows]

    def read(self, view, rows, names):
        return {"logits": 3 * self.logits[torch.as_tensor(view), torch.as_tensor(rows)]}

    def show(self, items):
        views, rows = np.divmod(items, len(self))
        shade = torch.from_numpy(40 * rows + 10 * views).to(torch.uint8)
        images = shade[:, None, None, None].expand(-1, 3, *self.view.size)
        targets = torch.from_numpy(self.labels)[torch.from_numpy(rows)]
        mixed = {"others": targets.roll(1), "shares": torch.full((len(rows),), 0.625)} if self.view.mixes else {}
        return Batch(images, targets, items, len(self), **mixed)

    def draw(self, path, rows=8, views=6) -> np.ndarray:
        with Image.open(contact_sheet(self, self, rows, views, path)) as image:
            return np.asarray(image)


CASES = {
    "digits": (("0123456789"), [3, 1, 4], (32, 32), 3),
    "two classes": (["no", "yes"], [0, 1], (32, 32), 3),
    "many long names": (LONG, [0, 60, 119], (40, 40), 2),
    "one very long name": (["a" * 300, "b"], [0, 1], (16, 16), 1),
    "no label": (["cat", "dog", "cow"], [-1, 0, -1], (32, 32), 2),
    "one view": (["cat", "dog", "cow"], [0], (32, 32), 1),
    "wide": (["cat", "dog"], [0, 1], (8, 64), 2),
    "tall": (["cat", "dog"], [0, 1], (64, 8), 2),
    "mixed": (["cat", "dog", "cow"], [0, 1, -1], (32, 32), 2, True),
    "mixed, with long names": (LONG, [0, 60, 119], (40, 40), 2, True),
    "photographs": (LONG, [1, 2], (224, 224), 2),
    "other letters": (["Großer Brachvogel", "短い名前", "éclair", "Жук"], [0, 1, 2, 3], (32, 32), 2),
}


@pytest.fixture
def texts(monkeypatch):
    """Every text that is drawn, with the box that it fills."""
    found, drawn = [], ImageDraw.ImageDraw.text

    def text(self, place, words, *rest, **named):
        anchor = rest[2] if len(rest) > 2 else named.get("anchor")
        found.append((words, self.textbbox(place, words, rest[1], anchor)))
        return drawn(self, place, words, *rest, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


@pytest.mark.filterwarnings("ignore:made.h5. no font here has")
@pytest.mark.parametrize("case", CASES)
def test_nothing_overlaps_or_is_cut_off(case, texts, tmp_path):
    height, width, _ = Made(*CASES[case]).draw(tmp_path / "sheet.png").shape
    assert texts
    for words, (left, top, right, bottom) in texts:
        assert 0 <= left <= right <= width, words
        assert 0 <= top <= bottom <= height, words
    for i, (words, a) in enumerate(texts):
        for others, b in texts[:i]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (words, others)


@pytest.mark.parametrize("case", CASES)
def test_what_the_bars_are_called_is_unmistakable(case):
    classes = CASES[case][0]
    for width in (60, 90, 130):
        names = Script(list(classes), 10).short(dict(enumerate(classes)), width)
        assert len(set(names.values())) == len(classes)


def test_pictures_keep_their_shape_and_grow_by_whole_pixels():
    for side in range(1, show.COLUMN + 1):
        height, width = tile((side, side))
        assert height == width
        assert width % side == 0
        assert width >= 0.75 * show.COLUMN
        assert width <= show.LARGEST
    assert tile((32, 64)) == (64, 128)
    assert tile((224, 448)) == (80, 160)
    assert tile((4096, 1)) == (160, 1)


def test_the_pixels_are_those_of_the_view(tmp_path):
    made = Made(["cat", "dog"], [0, 1], (32, 32), 2)
    sheet = made.draw(tmp_path / "sheet.png")
    for shade in (0, 10, 40, 50):  # of two rows in two views
        assert (sheet == shade).all(2).sum() == 96 * 96 or shade == 0
    assert (sheet == 0).all(2).sum() >= 96 * 96


def test_colours_tell_right_from_wrong_from_unlabelled(tmp_path):
    def colours(label):
        seen = {tuple(pixel) for pixel in Made(["cat", "dog"], [label]).draw(tmp_path / "sheet.png").reshape(-1, 3)}
        return [colour in seen for colour in (show.RIGHT, show.WRONG, show.OPEN)]

    assert colours(0) == [True, True, False]
    assert colours(-1) == [False, False, True]


def test_rows_and_views_are_bounded_by_what_there_is(tmp_path):
    made = Made(["cat", "dog"], [0, 1], views=2)
    assert made.draw(tmp_path / "a.png", 64, 32).shape == made.draw(tmp_path / "b.png", 2, 2).shape


def test_wrapping():
    script = Script(["x"], 13)
    lines = script.wrapped("a_rather_long-name of something", 90, 9)
    assert "".join(lines).replace(" ", "") == "a_rather_long-nameofsomething"
    assert all(line[-1] in "_-" or line in ("of", "something") or line.endswith((" of", "name")) for line in lines)
    assert script.wrapped("short", 80, 1) == ["short"]
    assert script.wrapped("", 80, 3) == [""]
    lines = script.wrapped("w" * 500, 80, 3)
    assert len(lines) == 3
    assert "…" in lines[-1]
    assert all(script.width(line) <= 80 for line in lines)


def test_cutting():
    script = Script(["x"], 10)
    assert script.cut("cat", 50) == "cat"
    cut = script.cut("Black-footed_Albatross", 60)
    assert script.width(cut) <= 60
    assert cut.startswith("Blac")
    assert cut.endswith("ross")
    assert "…" in cut
    assert script.cut("wwww", 1) == "…"


def test_letters_that_no_font_has():
    script = Script(["é短"], 10)
    script.known = set()
    assert script.plain("é短\n") == "e? "
    assert script.short({3: "短", 4: "中", 5: "x?"}, 60) == {3: "3 ?", 4: "4 ?", 5: "x?"}


def test_letters_that_no_font_has_are_named(tmp_path):
    made = Made(["cat", "\U000f1234"], [0, 1])  # of a private area
    with pytest.warns(KdcacheWarning, match=r"made.h5: no font here has \S+, drawn as plain letters"):
        made.draw(tmp_path / "sheet.png")


def test_the_caption_keeps_blanks_and_letters(texts, tmp_path):
    made = Made(["cat", "dog"], [0, 1], views=4)
    made.meta["source"]["spec"] = "folder:Vögel"
    made.draw(tmp_path / "sheet.png")
    assert texts[0][0].startswith("folder:Vögel as crop, and what")
    font = Script([texts[0][0]], 12).font
    assert min(font.getlength("s i") - font.getlength("si"), font.getlength(" ")) >= 3


def test_a_cache_without_logits(tmp_path, home):
    made = Made(["cat", "dog"], [0])
    made.names = ["at.f1"]
    with pytest.raises(show.CacheError, match="expected logits, found only"):
        made.draw(tmp_path / "sheet.png")
    refused(f"show a.h5 -o {tmp_path}", 2, "--out")
