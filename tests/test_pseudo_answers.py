"""The answer around a decision: peak, rest, calibration, the corner cases, and the likeness to a real teacher."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from kdcache.pseudo import PseudoTeacher, shape
from kdcache.pseudo.measure import calibrating_temperature

LABELS = np.arange(1000) % 10


def softmax(logits, temperature=1.0):
    return torch.softmax(torch.from_numpy(logits).double() / temperature, -1).numpy()


def wrong(teacher, view=0):
    return teacher.decisions(view) != teacher.labels


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("spread", ["uniform", 0.001, 0.1, 1, 1e6, "similarity"])
def test_the_answer_has_the_shape_that_was_asked_for(classes, spread):
    lowest, labels = shape.lowest_peak(classes), np.arange(2000) % classes
    cases = [(0, lowest), (0.5, max(0.3, lowest)), (1, 1), (0.7, (lowest, 1)), (0.7, ("beta", 1, 9))]
    for accuracy, confidence in cases:
        source = {"accuracy": accuracy}
        if spread == "similarity":
            near = np.roll(np.eye(classes), 1, 1)
            source = {"confusion": accuracy * np.eye(classes) + (1 - accuracy) * near}
        teacher = PseudoTeacher(**source, labels=labels, confidence=confidence, spread=spread)
        logits = teacher.logits(1)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        order = np.sort(logits, 1)
        assert (order[:, -1] - order[:, -2] > 0.009).all()
        assert (logits.argmax(1) == teacher.decisions(1)).all()
        assert (logits.astype(np.float16).argmax(1) == teacher.decisions(1)).all()
        assert abs(softmax(logits).sum(1) - 1).max() < 1e-12
        if isinstance(confidence, int | float):
            assert abs(softmax(logits).max(1) - confidence).max() < 1e-5
        assert (wrong(teacher).mean() == 1 - accuracy) or accuracy in (0.5, 0.7)


def test_peaks_and_rest_follow_their_distributions():
    teacher = PseudoTeacher(0.9, labels=np.arange(20_000) % 10, confidence=("beta", 8, 2), spread=0.5, seed=4)
    answers = softmax(teacher.logits())
    assert stats.kstest(answers.max(1), stats.beta(8, 2).cdf).statistic < 0.003
    rest = answers[teacher.decisions() == 0, 1:] / (1 - answers[teacher.decisions() == 0, :1])
    assert abs(rest.mean(0) - 1 / 9).max() < 0.015
    assert abs(rest.var(0) / (1 / 9 * 8 / 9 / (9 * 0.5 + 1)) - 1).max() < 0.15
    assert abs(np.corrcoef(rest.T) - np.eye(9) * 9 / 8 + 1 / 8).max() < 0.08
    words = (np.arange(2**16) + 0.5) / 2**16
    for k in (0.1, 1, 30, 1e4):
        assert abs(np.exp(shape.gamma_table(k).astype(float)) - stats.gamma(k).ppf(words)).max() < 2e-3 * (k + k**0.5)
    share = np.linspace(0.001, 0.999, 999)
    for a, b in [(0.05, 2), (3, 0.1), (1, 1), (2000, 100)]:
        assert abs(np.interp(share, *shape.beta_table(a, b)) - stats.beta(a, b).ppf(share)).max() < 2e-3


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.99, list(np.linspace(0, 1, 10))])
@pytest.mark.parametrize("confidence", [None, ("beta", 1, 1), (0.3, 0.995)])
def test_a_calibrated_teacher_is_as_often_right_as_it_says(accuracy, confidence):
    labels = np.arange(10_000) % 10
    teacher = PseudoTeacher(accuracy, labels=labels, calibrated=True, confidence=confidence, spread=1, temperature=3)
    answers = softmax(teacher.logits(1), 3)
    bins = np.minimum((answers.max(1) * 15).astype(int), 14)
    off = np.bincount(bins, weights=answers.max(1) - (answers.argmax(1) == labels))
    assert abs(off).sum() / len(labels) <= 0.008
    assert np.ptp(answers.max(1)) > 0.3 or np.mean(accuracy) > 0.9


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize(("classes", "case"), [(10, "smooth"), (100, "smooth"), (10, "tf-kd"), (100, "tf-kd author")])
def test_label_smoothing_and_the_virtual_teacher_are_corner_cases(classes, case):
    labels = torch.arange(200) % classes
    student = torch.randn(200, classes, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    log_q = F.log_softmax(student, 1)
    one_hot = F.one_hot(labels, classes).double()
    if case == "smooth":
        confidence = 1 - 0.1 + 0.1 / classes
        target = one_hot * 0.9 + 0.1 / classes
        loss = F.cross_entropy(student, labels, label_smoothing=0.1)
    else:
        target = one_hot * 0.99 + (1 - one_hot) * 0.01 / (classes - 1)
        target = torch.softmax(target / 20, 1) if "author" in case else target  # the code of the paper flattens again
        confidence = target[0, 0].item()
        loss = F.kl_div(log_q, target, reduction="batchmean")
    teacher = PseudoTeacher(1.0, labels=labels, confidence=confidence)
    stored = torch.from_numpy(teacher.logits()).double()
    kl = F.kl_div(log_q, F.log_softmax(stored, 1), reduction="batchmean", log_target=True)
    entropy = -(target * target.log()).sum(1).mean() if case == "smooth" else 0
    torch.testing.assert_close(gradient(kl, student), gradient(loss, student), rtol=0, atol=1e-8)
    torch.testing.assert_close(kl + entropy, loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(teacher.probabilities(labels)).double(), target, rtol=0, atol=1e-6)


def test_a_schedule_sharpens_and_then_stays():
    plan = {"confidence": (0.2, 1.0), "views": 5}
    teacher = PseudoTeacher(0.8, labels=LABELS, schedule=plan)
    peaks = [softmax(teacher.logits(view)).max() for view in range(7)]
    np.testing.assert_allclose(peaks, [0.2, 0.4, 0.6, 0.8, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(teacher.probabilities(3, view=1), [0.6 / 9] * 3 + [0.4] + [0.6 / 9] * 6, atol=1e-6)
    steps = PseudoTeacher(labels=LABELS, schedule={"accuracy": (0.6, 0.95), "views": 4, "shape": "step"})
    assert [round(steps.accuracy(view), 9) for view in range(5)] == [0.6, 0.6, 0.95, 0.95, 0.95]


@pytest.mark.parametrize("scale", [0.6, 1.0, 3.0])
def test_like_a_real_teacher(scale):
    random = np.random.default_rng(1)
    labels = np.arange(6000) % 10
    likeness = random.normal(0, 1, (10, 10))
    logits = scale * (likeness[labels] + 4 * np.eye(10)[labels] + random.normal(0, 1.5, (6000, 10)))
    teacher = PseudoTeacher.like(logits, labels, seed=3)
    right, mine, theirs = logits.argmax(1) == labels, softmax(teacher.logits()), softmax(logits)
    assert (np.bincount(labels[right]) == np.bincount(labels[~wrong(teacher)])).all()
    tables = np.zeros((2, 10, 10))
    for table, answer in zip(tables, (logits.argmax(1), teacher.decisions()), strict=True):
        np.add.at(table, (labels, answer), 1)
    assert abs(tables[0] - tables[1]).max() <= 3
    for ours, real in ((mine[~wrong(teacher)], theirs[right]), (mine[wrong(teacher)], theirs[~right])):
        assert stats.ks_2samp(ours.max(1), real.max(1)).statistic < 0.05
    assert teacher.temperature == pytest.approx(max(calibrating_temperature(logits, labels), 0.5), abs=1e-3)
    assert calibrating_temperature(teacher.logits(), labels) == pytest.approx(teacher.temperature, rel=0.25)
    stacked = PseudoTeacher.like(np.stack([logits, logits]), labels, seed=3)
    assert (stacked.decisions() == teacher.decisions()).all()


def test_rows_without_a_label_are_refused_or_told_nothing():
    labels = np.where(np.arange(1000) % 5, LABELS, -1)
    teacher = PseudoTeacher(0.5, labels=labels, unlabelled="flat", spread=0.1)
    assert abs(softmax(teacher.logits())[labels < 0] - 0.1).max() < 0.002
    assert wrong(teacher)[labels >= 0].mean() == 0.5
    assert stats.chisquare(np.bincount(teacher.decisions()[labels < 0], minlength=10)).pvalue > 0.01
