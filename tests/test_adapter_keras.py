"""The Distiller of Keras with a cached teacher is the same Distiller with a live one."""

import importlib

import pytest
import torch
from trainer_cases import ran, soft_target, taught

import kdcache
from kdcache.errors import UsageError
from kdcache.methods import METHODS, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cases():
    import keras_cases

    return keras_cases


@pytest.fixture(scope="module")
def adapter(cases):
    return importlib.import_module("kdcache.adapters.keras")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def teacher(place):
    return taught(place)


def test_its_script_ends_as_with_a_live_teacher(cases, adapter, teacher, place):
    found = ran("keras", place)
    student, data = cases.small(), kdcache.CachedDataset(place / "logits.h5")
    image = cases.keras.Input((32, 32, 3))
    asked = cases.keras.Model([image, cases.keras.Input((10,))], cases.Asked(teacher)(image))
    expected = cases.fitted(asked, adapter.teacher_and_student(student, data)[1], adapter.loader(data, 500))
    assert expected.keys() == found["history"].history.keys()
    for name, values in expected.items():
        assert found["history"].history[name] == pytest.approx(values, abs=1e-6), name
    for mine, theirs in zip(found["student"].get_weights(), student.get_weights(), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_evaluation_images_come_with_answers(cases, adapter, teacher, place):
    data = kdcache.CachedDataset(place / "logits.h5")
    (images, answers), labels = next(iter(adapter.evaluation_loader(data, 100)))
    assert (images.shape, answers.shape, labels.shape) == ((100, 32, 32, 3), (100, 10), (100,))
    with torch.no_grad():
        torch.testing.assert_close(cases.AskedModule(teacher)(images), answers, rtol=0, atol=1e-4)


def test_a_method_of_ours_is_a_distillation_loss(adapter):
    logits, answers, labels = torch.randn(6, 10, requires_grad=True), torch.randn(6, 10), torch.arange(6)
    found = adapter.MethodLoss("st").compute_loss(answers, logits)
    torch.testing.assert_close(found, soft_target(logits, answers, labels, ce=0))
    assert found.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_it_takes_what_reads_logits_alone(adapter, name):
    try:
        adapter.MethodLoss(name)
    except UsageError:
        return
    taken = build(name, {"logits": (10,)}, {"logits": (10,)})
    assert (taken.taps, taken.views, taken.two_heads) == (("logits",), 1, False)


def test_another_backend_is_refused(cases, adapter, monkeypatch):
    monkeypatch.setattr(cases.keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="expected Keras on torch, found jax"):
        importlib.reload(adapter)


def test_targets_of_all_classes_are_handed_on(adapter, teacher, place):
    data = kdcache.CachedDataset(place / "logits.h5", one_hot=True)
    _, labels = next(iter(adapter.loader(data, 50)))
    assert labels.shape == (50, 10)
