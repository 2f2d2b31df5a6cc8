"""Lightning: the script of its page ends as with a live teacher in a training step of the same Trainer."""

import pytest
import torch
from torch import nn
from trainer_cases import EPOCHS, assert_close, ran, taught

import kdcache

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
]


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def cases():
    import lightning_cases

    return lightning_cases


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("lightning")


@pytest.fixture(scope="module")
def teacher(place):
    return taught(place, "st+feat")


def test_its_script_ends_as_with_a_live_teacher(cases, teacher, place):
    found = ran("lightning", place)
    cases.seed_everything(0, verbose=False)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    images = kdcache.CachedDataset(place / "logits.h5").numbered()
    cases.Trainer(max_epochs=EPOCHS, **QUIET).fit(
        cases.Live(network, teacher, images), cases.CachedData(images, batch_size=500)
    )
    assert_close(found["network"], network)
    assert set(found["trainer"].callback_metrics) == {"train_ce", "train_st", "val_loss", "val_top1"}


def test_what_a_method_trains_beside_the_student_is_in_the_optimiser(cases, teacher, place):
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    images = kdcache.CachedDataset(place / "logits.h5").numbered()
    loss = kdcache.KnowledgeLoss(images, "feat", network, taps="emb=3:in")
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    cases.Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(
        cases.Mine(network, loss), cases.CachedData(images, batch_size=500)
    )
    assert before
    assert not any(torch.equal(*pair) for pair in zip(before, loss.parameters(), strict=True))


def test_images_without_labels_have_no_part_in_validation(cases, teacher, place, monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    images = kdcache.CachedDataset(place / "logits.h5").numbered()
    student = cases.Mine(network, kdcache.KnowledgeLoss(images, "st", network))
    logged = []
    monkeypatch.setattr(student, "log_dict", lambda measures, batch_size: logged.append((batch_size, measures)))
    shown, labels = torch.stack([images[row][0] for row in range(6)]), torch.tensor([3, -1, 0, 9, -1, 1])
    known = labels >= 0
    student.validation_step((shown, labels), 0)
    student.validation_step((shown[known], labels[known]), 0)
    assert logged[0][0] == logged[1][0] == 4
    torch.testing.assert_close(*(measures for _, measures in logged))
    student.validation_step((shown, torch.full((6,), -1)), 0)
    assert len(logged) == 2


def test_every_evaluation_image_counts_whatever_is_dropped_in_training(cases, teacher, place):
    images = kdcache.CachedDataset(place / "logits.h5").numbered()
    loader = cases.CachedData(images, 100, drop_last=True).val_dataloader()
    assert sum(len(batch[1]) for batch in loader) == 360
