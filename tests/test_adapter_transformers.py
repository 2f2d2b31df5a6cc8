"""The Trainer of transformers on a cache is the same Trainer with a live teacher, however it accumulates gradients."""

import pytest
import torch
from trainer_cases import assert_close, ran, taught

import kdcache
from kdcache.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")


@pytest.fixture(scope="module")
def cases():
    import transformers_cases

    return transformers_cases


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("transformers")


@pytest.fixture(scope="module")
def teacher(place):
    return taught(place, "st+at")


def test_its_script_ends_as_with_a_live_teacher(cases, teacher, place):
    found = ran("transformers", place)
    student = cases.small()
    given = cases.trainer_arguments(kdcache.KnowledgeLoss(kdcache.CachedDataset(place / "logits.h5").numbered()))
    given.pop("compute_loss_func")
    trainer = cases.LiveTrainer(student, cases.settings(place), **given)
    trainer.teacher = teacher.body
    trainer.train()
    assert_close(found["student"], student)
    assert found["found"]["eval_loss"] > 0


@pytest.mark.parametrize("method", ["st", pytest.param("st+at", marks=pytest.mark.slow)])
def test_four_batches_for_a_step_are_one_of_four_times_the_size(cases, teacher, place, method):
    """1437 images: of the last step, the last batch has fewer."""
    assert_close(cases.trained(place, method, 120, 4), cases.trained(place, method, 480, 1), 1e-12)


def test_evaluation_images_have_labels_alone(cases, teacher, place):
    loss = kdcache.KnowledgeLoss(kdcache.CachedDataset(place / "logits.h5").numbered())
    computed, logits = cases.trainer_arguments(loss)["compute_loss_func"], torch.randn(4, 10)
    labels = torch.tensor([1, 2, -1, 3])
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 3]], labels[[0, 1, 3]])
    torch.testing.assert_close(computed(logits, labels, num_items_in_batch=4), expected)


def test_several_devices_of_one_process_are_refused(cases, teacher, place):
    loss = kdcache.KnowledgeLoss(kdcache.CachedDataset(place / "logits.h5").numbered())
    targets = torch.stack([loss.images[row][1] for row in range(4)])
    with pytest.raises(UsageError, match="a process for each GPU"):
        cases.trainer_arguments(loss)["compute_loss_func"](torch.zeros(4, 10), targets, torch.tensor([8, 8]))
