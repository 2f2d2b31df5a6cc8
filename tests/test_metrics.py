"""Metrics against scikit-learn, NumPy and hand computation."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from kdcache.train.metrics import answered, calibration, ece, kl, nll, summary
from kdcache.types import Batch


def drawn(rows=200, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_scikit_learn(seed):
    logits, targets = drawn(seed=seed)
    teacher, _ = drawn(seed=seed + 10)
    answers = logits.argmax(1).numpy()
    assert summary(logits, targets, teacher) == {
        "top1": accuracy_score(targets, answers),
        "top5": top_k_accuracy_score(targets, logits, k=5, labels=range(10)),
        "agreement": accuracy_score(teacher.argmax(1), answers),
    }


@pytest.mark.parametrize("seed", range(3))
def test_nll_is_that_of_scikit_learn(seed):
    logits, targets = drawn(seed=seed)
    expected = log_loss(targets, logits.double().softmax(1), labels=range(10))
    assert nll(logits, targets) == pytest.approx(expected, rel=1e-9)


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
    assert ece(logits, targets, bins) == pytest.approx(ece_by_numpy(logits, targets, bins), rel=1e-9)


def test_ece_by_hand():
    """Two rows at confidence 0.9, one of them right; two at 0.6, both right: (2·0.4 + 2·0.4) / 4."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    assert ece(p.log(), torch.tensor([0, 1, 0, 0])) == pytest.approx(0.4)


def test_a_sure_network_that_is_always_right_is_calibrated():
    logits, targets = 1e3 * torch.eye(4), torch.arange(4)
    assert calibration(logits, targets) == {"nll": 0.0, "ece": 0.0}


@pytest.mark.parametrize(("classes", "known"), [(5, {"top1"}), (6, {"top1", "top5"})])
def test_top5_needs_more_than_five_classes(classes, known):
    assert summary(*drawn(classes=classes)).keys() == known


def test_rows_without_a_label_count_for_agreement_alone():
    logits, targets = drawn()
    some = targets.clone()
    some[50:] = -1
    teacher = logits.clone()
    teacher[60:] = -logits[60:]
    found = summary(logits, some, teacher)
    assert found == {**summary(logits[:50], targets[:50]), "agreement": 60 / 200}
    assert calibration(logits, some) == calibration(logits[:50], targets[:50])


def test_without_labels_there_is_no_accuracy():
    logits, targets = drawn()
    assert summary(logits, torch.full_like(targets, -1), logits) == {"agreement": 1.0}
    assert calibration(logits, torch.full_like(targets, -1)) == {}


def test_of_no_rows_nothing_is_measured():
    none = torch.empty(0, 10)
    assert summary(none, torch.empty(0, dtype=torch.long), none) == {}


def test_logits_that_are_not_finite_are_told():
    logits, targets = drawn()
    logits[3, 4] = torch.nan
    assert summary(logits, targets)["finite"] == 0.0
    assert np.isnan(calibration(logits, targets)["nll"])


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_that_of_scipy(seed):
    (mine, _), (theirs, _) = drawn(seed=seed), drawn(seed=seed + 10)
    p, q = (side.double().softmax(1).numpy() for side in (theirs, mine))
    assert kl(mine, theirs) == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-9)
    assert kl(mine, mine) == 0


def test_images_that_got_their_label_are_counted():
    logits, targets = torch.eye(4), torch.tensor([0, 1, 3, -1])
    batch = Batch(torch.empty(4), targets, np.arange(4), 4)
    assert answered(logits, batch).tolist() == [2, 3]


def test_a_mixed_image_counts_for_both_of_its_labels():
    batch = Batch(torch.empty(3), torch.tensor([0, 0, -1]), np.arange(3), 3)
    batch.others, batch.shares = torch.tensor([1, 1, 2]), torch.tensor([0.75, 0.25, 0.5])
    logits = torch.eye(3)
    assert answered(logits, batch).tolist() == [0.75 + 0.75 + 0.5, 1 + 1 + 0.5]
