"""Planted label errors and planted shifts are found, in real images; and nothing where nothing is wrong."""

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import good, kdcache, refused
from PIL import Image
from sklearn.model_selection import cross_val_predict
from sklearn.svm import SVC

from kdcache.audit import audit, blocks
from kdcache.audit.blocks import displaced as blocks_in
from kdcache.errors import CacheError
from kdcache.sources import open_source

NEAR = 12  # rows: where a block ends is not seen where the label happens to be right


class Answers:
    """What an audit reads of a cache, of logits [views, rows, classes]."""

    path, names, meta = Path("made.h5"), ["logits"], {"view": {"view": "none"}}

    def __init__(self, logits: np.ndarray, labels: np.ndarray):
        self.logits, self.labels = torch.as_tensor(logits, dtype=torch.float32), labels
        self.views, self.classes = len(logits), [str(c) for c in range(logits.shape[2])]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, view, rows, names):
        return {"logits": self.logits[view, torch.as_tensor(rows)]}


def pixels_of(source) -> np.ndarray:
    """The 8x8 that the digits were enlarged from, of 0..1."""
    return source.read(range(len(source)))[:, 0, 2::4, 2::4].reshape(len(source), -1).numpy() / 255.0


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Labels, and answers of classifiers that have not seen the image: 1 437 rows, 97 % of them right."""
    source = open_source("digits", "train")
    logits = cross_val_predict(SVC(C=10), pixels_of(source), source.labels, cv=4, method="decision_function")
    return source.labels, logits


def planted(labels: np.ndarray, share: float, seed: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, and the rows of these."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[rows] = (wrong[rows] + rng.integers(1, classes, len(rows))) % classes
    return wrong, rows


@pytest.mark.parametrize("share", [0.02, 0.05, 0.15])
def test_planted_label_errors_are_found_in_real_images(digits, share):
    labels, logits = digits
    hits, named, there = 0, 0, 0
    for seed in range(5):
        wrong, rows = planted(labels, share, seed)
        found = audit(Answers(logits[None], wrong))["label_errors"]
        suspects = [one["row"] for one in found["suspects"]]
        hits, named, there = hits + len({*suspects} & {*rows.tolist()}), named + len(suspects), there + len(rows)
        assert found["estimated"] == pytest.approx(len(rows), abs=0.04 * len(labels))
        surest = suspects[: len(rows) // 2]
        assert len({*surest} & {*rows.tolist()}) >= 0.8 * len(surest)
    assert hits / there > (0.75 if share < 0.05 else 0.95)
    assert hits / named > {0.02: 0.45, 0.05: 0.65, 0.15: 0.85}[share]  # the classifiers' own mistakes are suspects, too


def test_suspects_are_those_of_the_definition(digits):
    labels, logits = digits
    wrong, _ = planted(labels, 0.1, 7)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    usual = [p[wrong == c, c].mean() for c in range(10)]
    expected = set()
    for row, label in enumerate(wrong):
        sure = [c for c in range(10) if p[row, c] >= usual[c]]
        if sure and max(sure, key=lambda c: p[row, c]) != label and p[row].argmax() != label:
            expected.add(row)
    assert {one["row"] for one in audit(Answers(logits[None], wrong))["label_errors"]["suspects"]} == expected


@pytest.mark.parametrize("offset", [-40, -1, 1, 7, None])
@pytest.mark.parametrize("size", [30, 100, 500])
def test_a_block_that_was_shifted_or_shuffled_is_found_in_real_images(digits, size, offset):
    labels, logits = digits
    answers, rng = logits.argmax(1), np.random.default_rng(size)
    for start in (100, 611):
        wrong, _ = planted(labels, 0.02, start)
        rows = np.arange(start, start + size)
        wrong[rows] = labels[rows + offset] if offset else rng.permutation(labels[rows])
        [block] = blocks_in(wrong, answers, 10)
        assert block["offset"] == offset
        assert abs(block["first"] - start) <= NEAR
        assert abs(block["last"] - rows[-1]) <= NEAR
        assert block["agreement"] < 0.35
        assert block["elsewhere"] > 0.9


@pytest.mark.parametrize("share", [0, 0.05, 0.2])
def test_without_a_block_there_is_no_alarm(digits, share):
    labels, logits = digits
    answers, by_class = logits.argmax(1), np.argsort(labels, kind="stable")
    for seed in range(20):
        wrong, _ = planted(labels, share, seed)
        assert blocks_in(wrong, answers, 10) == []
        assert blocks_in(wrong[by_class], answers[by_class], 10) == []  # as a folder has them


def test_several_blocks_are_told_one_by_one(digits):
    labels, logits = digits
    wrong = labels.copy()
    wrong[100:200], wrong[600:660], wrong[1300:] = labels[103:203], labels[595:655], np.roll(labels[1300:], 9)
    assert [block["offset"] for block in blocks_in(wrong, logits.argmax(1), 10)] == [3, -5, -9]


@pytest.mark.parametrize("offset", [5, -120, None])
def test_labels_that_are_all_out_of_place(digits, offset):
    labels, logits = digits
    moved = np.roll(labels, -offset) if offset else np.random.default_rng(0).permutation(labels)
    [block] = blocks_in(moved, logits.argmax(1), 10)
    assert (block["first"], block["last"], block["elsewhere"]) == (0, len(labels) - 1, None)
    assert block["offset"] == offset


def test_rows_without_a_label_are_passed_over(digits):
    labels, logits = digits
    some = labels.copy()
    some[::3] = -1
    some[600:700] = np.where(some[600:700] < 0, -1, labels[611:711])
    [block] = blocks_in(some, logits.argmax(1), 10)
    assert abs(block["first"] - 600) <= NEAR
    assert abs(block["last"] - 699) <= NEAR
    found = audit(Answers(logits[None], some))
    assert all(one["label"] >= 0 for one in found["label_errors"]["suspects"] + found["hardest"]["worst"])
    assert found["labelled"] == (some >= 0).sum()


def test_rows_whose_answer_changes_are_told_by_how_often():
    logits = np.zeros((4, 6, 3))
    logits[:, :, 0] = 5
    logits[3, 2] = logits[2:, 4] = (0, 9, 0)
    found = audit(Answers(logits, np.zeros(6, np.int64)))
    assert [(one["row"], one["views_agreeing"]) for one in found["unstable"]["worst"]] == [(4, 0.5), (2, 0.75)]
    assert audit(Answers(logits, np.zeros(6, np.int64)), views=1)["unstable"]["rows"] == 0


def test_many_classes_take_no_square_of_their_number():
    labels = np.arange(300) % 100_000
    found = audit(Answers(np.eye(300, 100_000, dtype="f4")[None], labels))
    assert found["confusions"] == []


def test_confusions_are_counted_by_pair(digits):
    labels, logits = digits
    pairs = audit(Answers(logits[None], labels))["confusions"]
    answers = logits.argmax(1)
    assert sum(one["rows"] for one in pairs) == (answers != labels).sum()
    first = pairs[0]
    assert first["rows"] == ((labels == first["label"]) & (answers == first["answer"])).sum()
    assert first["share"] == pytest.approx(first["rows"] / (labels == first["label"]).sum())


def test_the_pieces_of_a_large_cache_come_to_the_same(digits, monkeypatch):
    labels, logits = digits
    wrong, _ = planted(labels, 0.05, 0)
    whole = audit(Answers(logits[None], wrong))
    monkeypatch.setattr("kdcache.audit.answers.PIECE", 1000)
    assert audit(Answers(logits[None], wrong)) == whole


@pytest.mark.parametrize(("change", "told"), [
    ({"names": ["emb"]}, "logits, which an audit reads"),
    ({"meta": {"view": {"view": "mixup", "of": {}}}}, "one label"),
    ({"labels": np.full(5, -1)}, "labels to compare with"),
])  # fmt: skip
def test_what_cannot_be_audited_is_refused(change, told):
    answers = Answers(np.zeros((1, 5, 3)), np.zeros(5, np.int64))
    vars(answers).update(change)
    with pytest.raises(CacheError, match=told):
        audit(answers)


def test_as_documented():
    assert doctest.testmod(blocks).failed == 0


@pytest.fixture
def birds(in_tmp) -> Path:
    """A folder of 60 images, three of which lie in the wrong class, and a cache of answers that know better."""
    truth = []
    for number in range(60):
        kind = number % 2
        place = Path("birds/train") / ("owl", "wren")[kind != (number in (4, 31, 50))]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (250 * kind, 4 * number, 90)).save(place / f"{number:02}.png")
        truth.append((str(place), f"{number:02}", kind))
    Path("birds/test/owl").mkdir(parents=True)
    Path("birds/test/wren").mkdir()
    for kind in ("owl", "wren"):
        Image.new("RGB", (16, 16)).save(Path("birds/test") / kind / "0.png")
    answers = np.random.default_rng(0).normal(0, 0.3, (60, 2))
    answers[range(60), [kind for *_, kind in sorted(truth)]] += 6
    np.save("answers.npy", answers.astype(np.float32))
    good("import-logits answers.npy --data folder:birds -o birds.h5")
    return Path("birds.h5")


def test_the_command_names_the_files_and_draws_them(birds):
    found = good(f"audit {birds} --sheet worst.png --json").json()
    assert {Path(one["file"]).name for one in found["label_errors"]["suspects"]} == {"04.png", "31.png", "50.png"}
    with Image.open("worst.png") as picture:
        assert picture.height > 300
    page = good(f"audit {birds} --data folder:birds").out
    assert "3 suspects of about 3 wrong labels" in page
    assert "04.png" in page
    assert "no block of labels is out of place" in page


@pytest.mark.usefixtures("home")
def test_where_no_row_stands_out_no_sheet_is_drawn():
    good("pseudo-teacher --accuracy 1 --views 1 -o clean.h5")
    said = good("audit clean.h5 --sheet worst.png")
    assert "worst.png: not drawn, since no row stands out" in said.err
    assert not Path("worst.png").exists()


def test_an_alarm_is_an_exit_code(home):
    said = kdcache("audit a.h5")  # of a teacher that learnt nothing
    assert said.code == 1
    assert "ALARM  rows 0 to 63" in said.out


def test_a_wrong_place_for_the_sheet_is_told_first(home):
    refused("audit a.h5 --sheet nowhere/worst.png", 2, "no such folder")


def test_within_one_class_nothing_is_shifted():
    labels = np.full(400, 3)
    answers = labels.copy()
    answers[7] = 2
    assert blocks_in(labels, answers, 5) == []
