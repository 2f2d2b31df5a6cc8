"""Losses on mixed images, and the cheap way to mix: two stored answers."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_cases import assert_same_weights, dumped, measured, teacher_of

from kdcache.batches import Loader
from kdcache.errors import UsageError
from kdcache.jobs import Data, Student, pseudo_from_text, taught_by
from kdcache.methods import METHODS, build
from kdcache.methods.base import cross_entropy
from kdcache.train import Settings
from kdcache.train.mixlabels import MixedAnswers, MixingLoader, parse_mix
from kdcache.types import Batch
from kdcache.views.mixing import ONE

SPEC, ROWS = "synthetic:49,4,16", 49


def pair(shares_, targets=(0, 1, 2), others=(1, 2, 0), logits=None):
    batch = Batch(torch.empty(0), torch.tensor(targets), np.arange(3), 3, None, torch.tensor(others))
    batch.shares = torch.tensor(shares_)
    return batch


@given(st.lists(st.integers(0, ONE), min_size=3, max_size=3))
def test_cross_entropy_is_that_of_the_soft_target(found):
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = pair([share / ONE for share in found])
    target = torch.zeros(3, 4, dtype=torch.float64)
    for i, share in enumerate(found):
        target[i, batch.targets[i]] += share / ONE
        target[i, batch.others[i]] += 1 - share / ONE
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(cross_entropy(logits, batch), expected, atol=1e-6)


def test_what_has_no_label_adds_nothing():
    logits = torch.randn(3, 4, dtype=torch.float64)
    assert cross_entropy(logits, pair([0.5, 0.25, 1.0], (-1, -1, -1), (-1, -1, -1))) == 0
    one = cross_entropy(logits, pair([0.5, 1.0, 1.0], (-1, 1, 2), (1, -1, -1)))
    expected = -(0.5 * logits.log_softmax(1)[0, 1] + logits.log_softmax(1)[[1, 2], [1, 2]].sum()) / 2.5
    assert torch.allclose(one, expected, atol=1e-6)


LABELS = {"dkd", "tfkd", "nkd", "wsld", "rld", "wkd", "uskd", "crd", "sdd"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one not in LABELS)) for one in METHODS])
def test_methods_that_know_one_class_an_image_refuse_a_mixture(name):
    data = Data.open(SPEC, "crop-flip+mixup")
    live = None if name in ("none", "ls", "uskd", "dml") else teacher_of("resnet8", data)
    student = Student(data, "resnet8", name, Settings(epochs=2, batch=16, lr=0.01), taught_by(None, live))
    with pytest.raises(UsageError, match="mixup") if name in LABELS else contextlib.nullcontext():
        student.train()


@pytest.mark.parametrize(
    ("text", "refused"), [("ls", False), ("ls:others=true", True), ("st+dkd", True), ("st", False)]
)
def test_one_label_is_known_of_options_and_sums(text, refused):
    assert build(text).one_label is refused


def test_pseudo_teachers_refuse_a_mixing_view():
    data = Data.open(SPEC, "crop-flip+mixup")
    student = Student(
        data, "resnet8", "st", Settings(epochs=1), taught_by(pseudo=pseudo_from_text("pseudo:0.9", data, 0))
    )
    with pytest.raises(UsageError, match="`mix` labels"):
        student.train()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    data = Data.open(SPEC, "crop-flip")
    network = teacher_of("resnet8", data)
    return data, network, dumped(tmp_path_factory.mktemp("plain") / "a.h5", data, network, "st")


@pytest.mark.parametrize("mix", ["labels", "labels:cutmix", "labels:mixup:0.2+cutmix"])
def test_mixed_labels_cached_equal_live(plain, mix):
    data, network, cache = plain
    settings = Settings(epochs=3, batch=16, lr=0.02)
    teachers = [taught_by(cache, live) for live in (None, network)]
    outcomes = [Student(data, "resnet8", "st", settings, teacher, mix=mix).train() for teacher in teachers]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


def test_mixed_labels_are_the_mean_of_both_answers(plain):
    data, _, cache = plain
    mixing = MixingLoader(Loader(data.train, data.view, cache), parse_mix("labels"), 0)
    whole = next(mixing.run([np.arange(ROWS)], 1))
    parts = [b for start in (0, 20) for b in mixing.run([np.arange(start, min(start + 20, ROWS))], 1)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images[:40])
    own, other = (cache.read(0, rows)["logits"].double().softmax(1) for rows in (whole.rows, whole.of[1].rows))
    share = whole.shares.double()[:, None]
    answer = MixedAnswers(lambda batch: cache.gather(batch.items))(whole)["logits"]
    assert torch.allclose(answer.double().exp(), share * own + (1 - share) * other, atol=1e-6)
    assert np.array_equal(np.sort(whole.of[1].rows), np.arange(ROWS))
    again = next(mixing.run([np.arange(ROWS)], 2))
    assert (again.of[1].rows != whole.of[1].rows).mean() > 0.8


@pytest.mark.parametrize(
    ("method", "mix", "said"),
    [("at", "labels", "f1"), ("logits", "labels", "level"), ("dkd", "labels", "mixup"), ("st", "mixup", "`mix`")],
)
def test_what_cannot_be_mixed_is_refused(plain, method, mix, said):
    data, network, _ = plain
    with pytest.raises(UsageError, match=said):
        Student(data, "resnet8", method, Settings(epochs=1, batch=16), taught_by(None, network), mix=mix).train()
