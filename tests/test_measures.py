"""Measures against scikit-learn, scipy, NumPy and hand computation."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn import metrics as sk

from kdcache.measures import MEASURES, Outcome, answered, every, formulas, numbers, shown
from kdcache.types import Batch

KINDS = ("plain", "two classes", "absent classes", "never answered", "unlabelled rows", "one row")


def drawn(rows=200, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


def outcome(kind="plain", seed=0) -> Outcome:
    """Answers of a kind that a formula could trip over, beside a teacher's."""
    rows, classes = (1 if kind == "one row" else 200), (2 if kind == "two classes" else 10)
    (logits, targets), (teacher, _) = drawn(rows, classes, seed), drawn(rows, classes, seed + 10)
    if kind == "absent classes":
        targets = targets % 3 * 3  # labels 0, 3, 6, while all classes are answered
    if kind == "never answered":
        logits[:, [2, 5]] = -20.0
    if kind == "unlabelled rows":
        targets[50:] = -1
    return Outcome(logits, targets, teacher)


def by_scikit_learn(found: Outcome) -> dict:
    """Of the labelled rows."""
    rows = found.targets >= 0
    labels, answers = found.targets[rows].numpy(), found.logits.argmax(1)[rows].numpy()
    p, every_class = found.logits.double().softmax(1)[rows].numpy(), range(found.classes)
    of = {"zero_division": 0.0}
    expected = {
        "top1": sk.accuracy_score(labels, answers),
        "precision": sk.precision_score(labels, answers, average="macro", **of),
        "recall": sk.recall_score(labels, answers, average="macro", **of),
        "f1": sk.f1_score(labels, answers, average="macro", **of),
        "nll": sk.log_loss(labels, p, labels=every_class),
        "confusion": sk.confusion_matrix(labels, answers, labels=every_class).tolist(),
        "images_by_class": np.bincount(labels, minlength=found.classes).tolist(),
        "agreement": sk.accuracy_score(found.teacher.argmax(1), found.logits.argmax(1)),
    }
    if found.classes > 5:
        expected["top5"] = sk.top_k_accuracy_score(labels, p, k=5, labels=every_class)
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected[f"{name}_by_class"] = score(labels, answers, average=None, labels=every_class, zero_division=np.nan)
    return expected


def with_nan(value):
    """What is not defined of a class, as scikit-learn says it."""
    return [np.nan if one is None else one for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_scikit_learn(kind, seed):
    given = outcome(kind, seed)
    with warnings.catch_warnings(action="ignore"):  # it warns of one row, and of classes that are absent
        expected = by_scikit_learn(given)
    found = {name: with_nan(value) for name, value in every(given).items()}
    assert found.pop("confusion") == expected.pop("confusion")
    assert {name: found[name] for name in expected} == {
        name: pytest.approx(value, rel=1e-9, nan_ok=True) for name, value in expected.items()
    }
    assert expected.keys() == found.keys() - {"ece", "reliability", "kl"}


def ece_by_numpy(logits, targets, bins):
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == targets.numpy()
    total = 0.0
    for lower, upper in zip(np.arange(bins) / bins, (np.arange(bins) + 1) / bins, strict=True):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_ece_is_the_formula(seed, bins):
    logits, targets = drawn(seed=seed)
    assert formulas.ece(Outcome(logits, targets), bins) == pytest.approx(ece_by_numpy(logits, targets, bins), rel=1e-9)


def test_ece_and_its_bins_by_hand():
    """Two rows at confidence 0.9, one of them right; two at 0.6, both right: (2·0.4 + 2·0.4) / 4."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    found = Outcome(p.log(), torch.tensor([0, 1, 0, 0]))
    assert formulas.ece(found) == pytest.approx(0.4)
    bins = [(one["rows"], one["confidence"], one["accuracy"]) for one in formulas.reliability(found)]
    assert bins == [(2, pytest.approx(0.6), 1.0), (2, pytest.approx(0.9), 0.5)]


def test_a_sure_network_that_is_always_right_is_calibrated():
    found = numbers(Outcome(1e3 * torch.eye(4), torch.arange(4)))
    assert (found["nll"], found["ece"]) == (0.0, 0.0)


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes, there):
    assert ("top5" in numbers(Outcome(*drawn(classes=classes)))) == there


def test_rows_without_a_label_count_for_the_teacher_alone():
    (logits, targets), teacher = drawn(), drawn(seed=5)[0]
    some = targets.clone()
    some[50:] = -1
    ours, theirs = ("agreement", "kl"), every(Outcome(logits, targets, teacher))
    labelled = every(Outcome(logits[:50], targets[:50]))
    assert every(Outcome(logits, some, teacher)) == labelled | {name: theirs[name] for name in ours}


def test_without_labels_there_is_no_accuracy():
    logits, targets = drawn()
    assert every(Outcome(logits, torch.full_like(targets, -1), logits)) == {"agreement": 1.0, "kl": 0.0}


def test_of_no_rows_nothing_is_measured():
    none = torch.empty(0, 10)
    assert every(Outcome(none, torch.empty(0, dtype=torch.long), none)) == {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_told(value):
    logits, targets = drawn()
    sound = every(Outcome(logits, targets, logits))
    logits[3, 4] = value
    found = every(Outcome(logits, targets, logits))
    assert found["finite"] == 0.0
    assert sound.keys() - found.keys() == {"nll", "ece", "kl", "reliability"}  # and nothing is NaN, which JSON lacks


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_that_of_scipy(seed):
    (mine, targets), (theirs, _) = drawn(seed=seed), drawn(seed=seed + 10)
    p, q = (side.double().softmax(1).numpy() for side in (theirs, mine))
    found = numbers(Outcome(mine, targets, theirs))
    assert found["kl"] == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-9)
    assert numbers(Outcome(mine, targets, mine))["kl"] == 0


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_is_and_how_it_is_read(name):
    one = MEASURES[name]
    assert one.title
    assert one.help
    assert one.text(None) == "-"
    if one.shape == "number":
        assert shown({name: 0.5, "other": 1}) == {name: one.text(0.5)}
        assert len(one.text(12345.678)) < 15


def test_images_that_got_their_label_are_counted():
    logits, targets = torch.eye(4), torch.tensor([0, 1, 3, -1])
    batch = Batch(torch.empty(4), targets, np.arange(4), 4)
    assert answered(logits, batch).tolist() == [2, 3]


def test_a_mixed_image_counts_for_both_of_its_labels():
    batch = Batch(torch.empty(3), torch.tensor([0, 0, -1]), np.arange(3), 3)
    batch.others, batch.shares = torch.tensor([1, 1, 2]), torch.tensor([0.75, 0.25, 0.5])
    logits = torch.eye(3)
    assert answered(logits, batch).tolist() == [0.75 + 0.75 + 0.5, 1 + 1 + 0.5]


def test_of_many_classes_there_is_no_matrix_and_the_rest_as_ever():
    labels = torch.arange(400) * 7
    found = every(Outcome(torch.randn(400, 3000), labels))
    assert "confusion" not in found
    assert len(found["recall_by_class"]) == 3000
