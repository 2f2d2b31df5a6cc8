"""A pseudo teacher is exactly as good as asked, the same whoever asks in whatever order, and refuses nonsense."""

import hashlib
import json
import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from cli_cases import refused
from scipy import stats

from kdcache.errors import UsageError
from kdcache.pseudo import PseudoTeacher, parse_accuracy, read_confusion
from kdcache.pseudo.wrong import wrong_counts

LABELS = np.arange(1000) % 10
UNEVEN = np.repeat(np.arange(6), [7, 1, 0, 333, 58, 101])
CONFUSION = np.array([[70, 20, 10, 0], [0, 90, 5, 5], [25, 25, 25, 25], [3, 0, 0, 97]])


def wrong(teacher, view=0):
    return teacher.decisions(view) != teacher.labels


def per_class(teacher, view=0):
    return np.bincount(teacher.labels[wrong(teacher, view)], minlength=teacher.classes)


@pytest.mark.parametrize("errors", ["fixed", "per-view"])
@pytest.mark.parametrize("accuracy", [0.0, 0.333, 0.5, 0.77, 0.9, 1.0, [0.333, 0.5, 0.1, 0.91, 0.0, 1.0]])
def test_every_class_has_its_errors(accuracy, errors):
    teacher = PseudoTeacher(accuracy, labels=UNEVEN, errors=errors, seed=3)
    asked = np.bincount(UNEVEN) * (1 - np.array(accuracy))
    for view in range(3):
        counts = per_class(teacher, view)
        assert (counts >= np.floor(asked + 1e-9)).all()
        assert (counts <= np.ceil(asked - 1e-9)).all()
        assert counts.sum() == round(asked.sum())
    assert teacher.accuracy() == 1 - counts.sum() / len(UNEVEN)


def test_the_largest_remainders_are_rounded_up():
    teacher = PseudoTeacher([0.333, 0.333, 0.333], labels=np.repeat([0, 1, 2], [7, 8, 10]))
    assert per_class(teacher).tolist() == [5, 5, 7]  # of 4.669, 5.336 and 6.67: 16.675 are 17
    assert per_class(PseudoTeacher(0.9, labels=np.repeat([0, 1], [7, 3]))).tolist() == [1, 0]


def test_the_wrong_class_is_uniform():
    teacher = PseudoTeacher(0.2, labels=np.arange(20_000) % 10, seed=5)
    answers, rows = teacher.decisions(), wrong(teacher)
    table = np.zeros((10, 10))
    np.add.at(table, (teacher.labels[rows], answers[rows]), 1)
    assert stats.chisquare(table[~np.eye(10, dtype=bool)]).pvalue > 0.01
    assert np.ptp(table[~np.eye(10, dtype=bool)]) <= 4  # and steadier than chance would be
    step = (answers - teacher.labels)[rows] % 10
    assert stats.chisquare(np.bincount(step)[1:]).pvalue > 0.01


def test_a_confusion_matrix_is_followed():
    labels = np.arange(4000) % 4
    for errors in ("fixed", "per-view"):
        teacher = PseudoTeacher(labels=labels, confusion=CONFUSION, errors=errors)
        table = np.zeros((4, 4))
        np.add.at(table, (labels, teacher.decisions(2)), 1)
        asked = 1000 * CONFUSION / CONFUSION.sum(1, keepdims=True)
        assert (np.diag(table) == np.diag(asked)).all()
        assert not table[asked == 0].any()
        assert stats.chisquare(table[asked > 0], asked[asked > 0]).pvalue > 0.01
        assert abs(table - asked).max() <= 4


def test_errors_are_fixed_or_drawn_for_every_view():
    fixed = PseudoTeacher(0.7, labels=LABELS, seed=1)
    assert (fixed.decisions(0) == fixed.decisions(9)).all()
    drawn = PseudoTeacher(0.7, labels=np.arange(10_000) % 10, seed=1, errors="per-view")
    masks = np.array([wrong(drawn, view) for view in range(8)])
    overlaps = [(masks[a] & masks[b]).sum() for a in range(8) for b in range(a)]
    assert abs(np.array(overlaps) - 900).max() < 5 * math.sqrt(10_000 * 0.3 * 0.7 * 0.3 * 0.7)
    often = np.bincount(masks.sum(0), minlength=9)
    assert stats.chisquare(often, 1e4 * stats.binom.pmf(range(9), 8, 0.3)).pvalue > 0.01
    both = masks[0] & masks[1]
    same = (drawn.decisions(0) == drawn.decisions(1))[both].mean()
    assert abs(same - 1 / 9) < 0.05


@pytest.mark.parametrize("errors", ["fixed", "per-view"])
def test_wrong_rows_of_a_schedule_are_nested(errors):
    ends = ([0.4, 0.1, 0.0, 0.6, 0.333, 0.2], [0.9, 0.8, 0.0, 0.95, 1.0, 0.21])
    plan = {"accuracy": ends, "views": 9, "shape": "cosine"}
    teacher = PseudoTeacher(labels=UNEVEN, schedule=plan, confusion=np.eye(6) + 1, errors=errors)
    before = per_class(teacher, 0)
    for view in range(1, 12):
        after = per_class(teacher, view)
        assert (after <= before).all()
        before = after
        if errors == "fixed":
            now = wrong(teacher, view)
            assert wrong(teacher, view - 1)[now].all()
            assert (teacher.decisions(view)[now] == teacher.decisions(0)[now]).all()
    alone = per_class(PseudoTeacher(ends[1], labels=UNEVEN))
    assert after.sum() == alone.sum()
    assert abs(after - alone).max() <= 1  # what is rounded up may differ, so that rows can be nested
    assert (teacher.decisions(8) == teacher.decisions(11)).all() or errors == "per-view"


def test_scheduled_counts_keep_floor_ceil_and_total():
    random = np.random.default_rng(0)
    for trial in range(300):
        classes, views = random.integers(2, 20), random.integers(2, 12)
        first, sizes = random.random(classes).round(trial % 3 + 1), random.integers(0, 40, classes)
        last = first + ((1 - first) * random.random(classes) * (random.random(classes) < 0.7)).round(trial % 3 + 1)
        share = np.linspace(0, 1, views)[:, None]
        asked = np.round(first * (1 - share) + last.clip(0, 1) * share, 12)
        counts, quota = wrong_counts(asked, sizes, trial), sizes * (1 - asked)
        assert (counts >= np.floor(quota + 1e-9)).all()
        assert (counts <= np.ceil(quota - 1e-9)).all()
        assert (abs(counts.sum(1) - quota.sum(1)) <= 0.5 + 1e-9).all()
        assert (np.diff(counts, axis=0) <= 0).all()


KINDS = {
    "plain": {"accuracy": 0.8},
    "drawn": {"accuracy": 0.8, "errors": "per-view", "spread": 0.3, "confidence": ("beta", 8, 2)},
    "calibrated": {"accuracy": np.linspace(0, 1, 10), "calibrated": True, "spread": 5, "temperature": 2.5},
    "confused": {"confusion": np.eye(10) * 9 + 1, "spread": "similarity", "confidence": (0.2, 0.8)},
    "matrix": {"accuracy": 0.8, "spread": np.ones((10, 10)), "confidence": {"right": 0.9, "wrong": [0.2, 0.4]}},
    "schedule": {"schedule": {"accuracy": (0.3, 1), "confidence": (0.2, 1), "views": 3, "shape": "step"}, "spread": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_batch_and_order_gives_the_same_bits(kind):
    teacher, again = (PseudoTeacher(**KINDS[kind], labels=LABELS, seed=7) for _ in range(2))
    whole = [again.logits(view) for view in range(3)]
    rows = np.random.default_rng(0).permutation(1000)
    assert (teacher.logits(2, rows) == whole[2][rows]).all()
    assert (teacher.logits(1, [5, 3, 3]) == whole[1][[5, 3, 3]]).all()
    assert all((teacher.logits(0, [row])[0] == whole[0][row]).all() for row in range(0, 1000, 97))
    views, rows = torch.tensor([2, 0, 1, 0]), torch.tensor([9, 9, 0, 999])
    assert (teacher.logits(views, rows) == np.array([whole[v][r] for v, r in zip(views, rows, strict=True)])).all()
    assert (teacher.decisions(views, rows) == teacher.logits(views, rows).argmax(1)).all()
    assert teacher.logits(0, []).shape == (0, 10)
    back = PseudoTeacher.from_json(json.loads(json.dumps(teacher.to_json())), LABELS)
    assert back.to_json() == teacher.to_json()
    assert (back.logits(1) == whole[1]).all()
    other = PseudoTeacher(**KINDS[kind], labels=LABELS, seed=8)
    assert (other.decisions(0) != again.decisions(0)).any()


def test_another_process_answers_the_same_and_nobody_elses_randomness_moves():
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    teacher = PseudoTeacher(0.7, labels=LABELS, seed=2, errors="per-view", spread=0.5, calibrated=True)
    code = (
        "import hashlib, numpy as np; from kdcache.pseudo import PseudoTeacher as P; import sys\n"
        "t = P(0.7, labels=np.arange(1000) % 10, seed=2, errors='per-view', spread=0.5, calibrated=True)\n"
        "print(hashlib.sha256(t.logits(4).tobytes()).hexdigest(), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [hashlib.sha256(teacher.logits(4).tobytes()).hexdigest(), "False"]
    assert (np.random.get_state()[1] == state[0]).all()
    assert (torch.get_rng_state() == state[1]).all()


def test_decisions_are_the_same_on_every_machine():
    plain = PseudoTeacher(0.7, labels=LABELS, seed=2).decisions()
    plan = {"accuracy": (0.2, 0.9), "views": 9, "shape": "cosine"}
    drawn = PseudoTeacher(labels=UNEVEN, seed=2**63, confusion=np.eye(6) + 0.3, errors="per-view", schedule=plan)
    words = [zlib.crc32(answers.astype("<i8").tobytes()) for answers in (plain, drawn.decisions(3))]
    assert words == [933285302, 2384386763]  # integer arithmetic: if this changes, old caches cannot be made again


SQUARE = np.eye(10) + 1
NEVER = np.eye(10) * (np.arange(10) != 4)
BAD = {
    "accuracy above 1": ({"accuracy": 1.1}, "`accuracy`: .* 1.1"),
    "accuracy below 0": ({"accuracy": -0.1}, "accuracy"),
    "accuracy NaN": ({"accuracy": math.nan}, "`accuracy`: .* nan"),
    "accuracy text": ({"accuracy": "0.9"}, "accuracy"),
    "accuracy of a class": ({"accuracy": [0.5] * 9 + [2]}, "`accuracy` of class 9"),
    "accuracy too short": ({"accuracy": [0.5] * 9}, "10 numbers, one per class, found 9"),
    "accuracy too long": ({"accuracy": np.ones(11)}, "10 numbers, one per class, found 11"),
    "accuracy nested": ({"accuracy": [[0.5]] * 10}, "`accuracy` of class 0"),
    "accuracy said twice": ({"accuracy": 0.5, "confusion": SQUARE}, "accuracy and confusion"),
    "accuracy and schedule": ({"accuracy": 0.5, "schedule": {"accuracy": (0, 1), "views": 2}}, "said once"),
    "matrix not square": ({"confusion": SQUARE[:9]}, "10 x 10 numbers, found 9 x 10"),
    "matrix of other classes": ({"confusion": np.eye(9)}, "found 9 x 9"),
    "matrix ragged": ({"confusion": [[1, 2], [3]]}, "`confusion`: expected a matrix"),
    "matrix negative": ({"confusion": SQUARE - 1.5}, "`confusion` row 0: .* negative, found -0.5"),
    "matrix row empty": ({"confusion": NEVER}, "`confusion` row 4: .* only zeros"),
    "matrix NaN": ({"confusion": SQUARE * math.nan}, "found nan"),
    "matrix infinite": ({"confusion": SQUARE * math.inf}, "found inf"),
    "one class": ({"labels": [0, 0, 0]}, "classes: expected two or more, found 1"),
    "one class told": ({"classes": 1}, "two or more"),
    "no labels": ({"labels": []}, "labels"),
    "labels of floats": ({"labels": [0.0, 1.0]}, "labels: .* float64"),
    "labels ragged": ({"labels": [[0], [1, 2]]}, "labels"),
    "labels out of range": ({"classes": 9}, "0 to 8 .* found 0 to 9"),
    "labels below -1": ({"labels": [-2, 0, 1]}, "found -2 to 1"),
    "labels missing": ({"labels": [-1, 0, 1]}, "1 rows without one"),
    "unlabelled": ({"unlabelled": "maybe"}, "unlabelled"),
    "classes": ({"classes": 10.0}, "classes"),
    "seed": ({"seed": -1}, "seed"),
    "seed of floats": ({"seed": 0.5}, "seed"),
    "errors": ({"errors": "often"}, "fixed, per-view, found 'often'"),
    "temperature": ({"temperature": 0}, "temperature"),
    "confidence above 1": ({"confidence": 1.5}, "confidence"),
    "confidence too flat": ({"confidence": 0.1}, "flattest answer of 10 classes"),
    "confidence reversed": ({"confidence": (0.9, 0.5)}, "low before high"),
    "`confidence` beta": ({"confidence": ("beta", 0, 1)}, "`confidence` beta"),
    "confidence form": ({"confidence": ("gauss", 0, 1)}, "a number, \\(low, high\\)"),
    "confidence one side": ({"confidence": {"right": 0.9}}, "confidence"),
    "confidence quantiles": ({"confidence": ("quantiles", [0.9, 0.5])}, "growing numbers"),
    "confidence calibrated": ({"confidence": 0.9, "calibrated": True}, "range or a Beta"),
    "calibrated too bad": ({"accuracy": 0.05, "calibrated": True}, "`calibrated`: expected an accuracy from"),
    "calibrated": ({"calibrated": 1}, "True or False"),
    "spread negative": ({"spread": -1}, "spread"),
    "spread NaN": ({"spread": math.nan}, "spread"),
    "spread word": ({"spread": "evenly"}, "uniform, similarity"),
    "spread of nothing": ({"spread": "similarity"}, "confusion matrix"),
    "spread matrix": ({"spread": [[1]]}, "10 x 10"),
    "schedule word": ({"schedule": "linear"}, "schedule"),
    "schedule empty": ({"schedule": {"views": 3}}, "schedule"),
    "schedule unknown": ({"schedule": {"accuracy": (0, 1), "epochs": 3}}, "schedule"),
    "schedule views": ({"schedule": {"accuracy": (0, 1)}}, "schedule views"),
    "schedule shape": ({"schedule": {"accuracy": (0, 1), "views": 3, "shape": "zigzag"}}, "linear, cosine, step"),
    "schedule ends": ({"schedule": {"accuracy": 0.5, "views": 3}}, "first and its last"),
    "schedule mixed": ({"schedule": {"accuracy": ([0, 1] * 5, 0.5), "views": 3}}, "one direction"),
    "schedule range": ({"schedule": {"confidence": (0.05, 1), "views": 3}}, "schedule confidence"),
    "schedule and confidence": ({"schedule": {"confidence": (0.5, 1), "views": 3}, "confidence": 0.5}, "said once"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_a_line(case):
    options, message = BAD[case]
    with pytest.raises(UsageError, match=message) as caught:
        PseudoTeacher(**({"labels": LABELS} | options))
    assert "\n" not in str(caught.value)
    assert all((caught.value.place, caught.value.expected, caught.value.found, caught.value.remedy))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.logits(0, [1000]), "rows: expected numbers from 0 to 999, found 1000"),
        (lambda t: t.decisions(0, [-1]), "found -1"),
        (lambda t: t.logits(0, [0.5]), "whole numbers"),
        (lambda t: t.logits(0, [True, False]), "whole numbers"),
        (lambda t: t.logits(0, 3), "list of rows"),
        (lambda t: t.logits([0, 1], [3]), "as many"),
        (lambda t: t.logits(-1), "view"),
        (lambda t: t.logits(0.5), "view"),
        (lambda t: t.probabilities(10), "labels: expected numbers from 0 to 9"),
        (lambda t: PseudoTeacher.from_json(t.to_json() | {"colour": 1}, LABELS), "missing or unknown: colour"),
        (lambda t: PseudoTeacher.from_json({}, LABELS), "to_json"),
        (lambda t: PseudoTeacher.like(np.zeros((3, 10)), LABELS), "3 rows of logits, 1000 labels"),
        (lambda t: PseudoTeacher.like(np.full((1000, 10), np.nan), LABELS), "finite"),
        (lambda t: PseudoTeacher.like(np.zeros(1000), LABELS), "logits"),
        (lambda t: parse_accuracy("0.9;0.8"), "commas"),
        (lambda t: parse_accuracy(""), "accuracy"),
        (lambda t: parse_accuracy("0.9,1.1"), "1.1"),
        (lambda t: parse_accuracy("nan"), "nan"),
        (lambda t: read_confusion("a,b\n1,2"), "`confusion` line 1"),
        (lambda t: read_confusion("1,2\n1"), "`confusion` line 2: expected 2 numbers, found 1"),
        (lambda t: read_confusion("1,2\n3,-1"), "`confusion` row 1"),
        (lambda t: read_confusion("1,2,3\n1,2,3"), "as many rows as columns, found 2 x 3"),
        (lambda t: read_confusion("5"), "two classes"),
        (lambda t: read_confusion(""), "confusion"),
    ],
)
def test_what_cannot_be_asked_is_refused(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call(PseudoTeacher(labels=LABELS))
    assert "\n" not in str(caught.value)


def test_text_becomes_numbers():
    assert parse_accuracy("0.9") == 0.9
    assert parse_accuracy("0.8, 0.89,1.0") == [0.8, 0.89, 1.0]
    want = [[0.75, 0.25], [0, 1]]
    for text in ("3,1\n0,2\n", "\ufeff3; 1\n# a comment\n\n0;2", "3\t1\r\n0\t2", "0.75 0.25 # first\n0 1"):
        assert read_confusion(text).tolist() == want


def test_a_shape_of_no_change_is_refused():
    refused("pseudo-teacher --accuracy 0.9 --shape cosine -o x.h5", 2, "--shape", "neither")
