"""What a long run says on the way, and how times and counts are said."""

import doctest

import pytest

from kdcache import wording
from kdcache.cli.progress import spoken
from kdcache.train.records import figures, line, time_left

RECORD = {
    "epoch": 3, "stage": "main", "lr": 0.1, "loss": {"ce": 0.5, "st": 0.25}, "total": 0.75, "train_top1": 0.81234,
    "images_per_second": 5432.1, "train_seconds": 2.0, "seconds": 2.5, "top1": 0.9, "nll": 0.3, "ece": 0.01,
}  # fmt: skip


def said(seconds: list[float], unit: str = "", scale: int = 1) -> list[str]:
    """The lines about items that take so long each."""
    times, told = iter([0.0, *(sum(seconds[:i]) for i in range(len(seconds)))]), []
    items = spoken(range(len(seconds)), len(seconds), "dumping", unit, scale, told.append, lambda: next(times))
    assert list(items) == list(range(len(seconds)))
    return told


def test_what_is_short_is_done_without_a_word():
    assert said([0.9] * 10) == []


def test_what_is_long_tells_how_far_it_is_how_fast_and_how_long_still():
    assert said([5] * 10, "images", 1000) == [
        "dumping: 2,000 of 10,000 images, 20 %, 200 images/s, 40 s left",
        "dumping: 8,000 of 10,000 images, 80 %, 200 images/s, 10 s left",
    ]
    assert said([60, 60]) == ["dumping: 1 of 2, 50 %, 1 min 00 s left"]


def test_the_longer_it_takes_the_more_rarely_it_tells():
    day = said([10] * 8640)
    assert 20 < len(day) < 150
    assert len(said([10] * 360)) > len(day) / 4


def test_the_line_of_an_epoch():
    expected = "epoch  3/30: loss 0.7500, train top1 81.23 %, top1 90.00 %, 5,432 images/s, 1 min 15 s left"
    assert line(RECORD, 30, 75) == expected
    first = {name: fact for name, fact in RECORD.items() if name not in ("top1", "train_top1")} | {"stage": "init"}
    assert line(first, 3, 0) == "epoch 3/3 (init): loss 0.7500, 5,432 images/s"


@pytest.mark.parametrize(("laps", "left"), [([0, 5], 50), ([0, 5, 7], 20), ([0, 5, 7, 11], 30)])
def test_the_time_left_is_that_of_epochs_after_the_first(laps, left):
    assert time_left(laps, 10) == left


def test_a_training_comes_to_its_last_measures_and_the_time_of_all():
    assert figures([RECORD | {"top1": 0.1}, RECORD]) == {
        "epochs": 3, "top1": 0.9, "nll": 0.3, "ece": 0.01, "train_top1": 0.81234, "seconds": 5.0, "train_seconds": 4.0,
        "images_per_second": 5432.1,
    }  # fmt: skip


def test_counts_and_times_as_documented():
    assert doctest.testmod(wording).failed == 0
