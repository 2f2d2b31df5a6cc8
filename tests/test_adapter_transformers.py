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
    return taught(place, "st+at+feat")


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


def test_a_checkpoint_has_what_the_method_trains_beside_the_student(cases, teacher, place, tmp_path):
    """Four epochs that were interrupted after the second end as four that were not: no gradient is left from before."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_epoch_end(self, args, state, control, **_):
            control.should_training_stop = control.should_save = state.epoch == 2

    def trained(folder, *callbacks, **how):
        images = kdcache.CachedDataset(place / "logits.h5").numbered()
        loss, student = cases.with_connector(images)
        optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.05)
        given = cases.trainer_arguments(loss)
        given["callbacks"] += callbacks
        settings = cases.settings(folder, num_train_epochs=4, lr_scheduler_type="constant", use_cpu=True)
        cases.Trainer(student, settings, optimizers=(optimizer, None), **given).train(**how)
        return {name: value.clone() for name, value in loss.method.state_dict().items()}

    whole = trained(tmp_path / "whole")
    before = trained(tmp_path / "part", Stop())
    found = trained(tmp_path / "part", resume_from_checkpoint=True)
    assert any(not torch.equal(before[name], value) for name, value in whole.items())
    assert all(torch.equal(found[name], value) for name, value in whole.items())
