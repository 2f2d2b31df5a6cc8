"""timm on a cache: its own distillation task, its loader, its augmentations, and a script that is none of ours."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from trainer_cases import EPOCHS, assert_close, ran, taught

import kdcache
from kdcache.errors import UsageError

CPU = torch.device("cpu")
LOADER = {"is_training": True, "num_workers": 0, "device": CPU}


@pytest.fixture(scope="module")
def cases():
    import timm_cases

    return timm_cases


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("timm")


@pytest.fixture(scope="module")
def teacher(place):
    return taught(place, "st+feat+at")


@pytest.fixture
def images(teacher, place):
    return kdcache.CachedDataset(place / "logits.h5").numbered()


def test_its_script_ends_as_timms_own_task_does(cases, teacher, place, images):
    found = ran("timm", place)
    student = cases.small()
    weights = {"task_loss_weight": 1.0, "distill_loss_weight": 1.0, "temperature": 4.0}
    task = cases.LogitDistillationTask(
        student, cases.Asked(teacher, student), nn.CrossEntropyLoss(), device=CPU, verbose=False, **weights
    )
    fed = {name: student.pretrained_cfg[name] for name in ("mean", "std")}
    loader = cases.made_by_timm(images, (3, 32, 32), 400, **LOADER, **fed)
    optimizer = cases.create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.05)
    for epoch in range(EPOCHS):
        images.set_epoch(epoch)
        for batch, target in loader:
            optimizer.zero_grad()
            task(batch, target[:, 0])["loss"].backward()
            optimizer.step()
    assert_close(found["student"], student)
    losses = found["task"](batch, target), task.train()(batch, target[:, 0])
    assert float(losses[0]["loss"].detach()) == pytest.approx(float(losses[1]["loss"].detach()), abs=1e-5)


ALTERED = {
    "--aa": {"auto_augment": "rand-m9"},
    "--reprob": {"re_prob": 0.25},
    "--color-jitter": {"color_jitter": 0.1},
    "--vflip": {"vflip": 0.5},
    "--grayscale-prob": {"grayscale_prob": 0.2},
    "--gaussian-blur-prob": {"gaussian_blur_prob": 0.2},
    "--aug-splits": {"num_aug_splits": 2},
    "--aug-repeats": {"num_aug_repeats": 3},
    "--mixup": {"collate_fn": torch.stack},
    "--train-img-sizes": {"input_size_choices": [24, 32]},
    "--no-prefetcher": {"use_prefetcher": False},
}


@pytest.mark.parametrize("flag", ALTERED)
def test_what_the_teacher_did_not_see_is_refused(cases, images, flag):
    with pytest.raises(UsageError, match=rf"{flag}.*leave (it|{flag}.*) out"):
        cases.create_loader(images, (3, 32, 32), 400, **LOADER, **ALTERED[flag])


def test_images_of_another_size_are_refused(cases, images):
    with pytest.raises(UsageError, match="32x32, as the cache has it, found 224x224; add --img-size 32"):
        cases.create_loader(images, (3, 224, 224), 400, **LOADER)


def test_the_loader_shows_pixels_and_numbers_as_they_are(cases, images):
    found = cases.create_loader(images, 32, 1437, mean=(0.0,) * 3, std=(1.0,) * 3, **LOADER)
    batch, target = next(iter(found))
    expected = torch.stack([images.data[int(item)][0] for item in target[:100, 1]])
    assert torch.equal((batch[:100] * 255).round().to(torch.uint8), expected)
    assert target.dtype == torch.int64


def test_connectors_are_trained_averaged_and_kept_beside_the_student(cases, images):
    student = cases.small()
    task = cases.CachedTask(
        student, kdcache.KnowledgeLoss(images, "feat", student, taps="emb=head:in"), CPU, verbose=False
    )
    trained = task.get_trainable_module()
    assert task.get_eval_model() is student
    extra = {name for name, _ in trained.named_parameters()} - {
        f"student.{name}" for name, _ in student.named_parameters()
    }
    assert extra
    task.setup_ema()
    kept, averaged = task.get_checkpoint_state(), task.get_checkpoint_state(ema=True)
    assert kept["state_dict"].keys() == student.state_dict().keys() == averaged["state_dict_ema"].keys()
    assert kept["task_state"]["method"].keys() == task.loss.method.state_dict().keys()
    with torch.no_grad():
        for parameter in task.loss.parameters():
            parameter.zero_()
    task.load_checkpoint_state(
        kept["state_dict"], {"method": {k: v + 1 for k, v in kept["task_state"]["method"].items()}}
    )
    assert all((parameter == 1).all() for parameter in task.loss.parameters())


SCRIPT = str(Path(__file__).parent / "trainers" / "timm_train.py")
ARGUMENTS = ["--num-classes", "10", "--img-size", "32", "--epochs", "1"]


def test_a_script_of_timm_runs_unchanged(cases, place, images, capsys):
    assert cases.main([SCRIPT, "--cache", str(place / "logits.h5"), "--method", "st+feat", *ARGUMENTS]) == 0
    said = capsys.readouterr()
    terms = re.escape("['ce_loss', 'feat_loss', 'loss', 'output', 'st_loss']")
    assert re.fullmatch(rf"loss \d+\.\d+ right \d+ of 360 terms {terms}\n", said.out)
    assert said.err == "images: crop 32x32 of the cache; timm crops, flips and jitters none\n"


WRONG = {
    "--aa rand-m9": "--aa: expected images as they are",
    "--reprob 0.25": "--reprob: expected images as they are",
    "--color-jitter 0.2": "--color-jitter: expected images as they are",
    "--kd-model-name resnet18": "found --kd-model-name resnet18; leave it out, and say --method",
    "--data-dir /data": "--data-dir and --dataset: expected the images of the cache",
    "--method nope": "a method out of",
    "--img-size 40": "32x32, as the cache has it, found 40x40; add --img-size 32",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_a_script_cannot_have_is_one_line(cases, place, images, capsys, arguments):
    assert cases.main([SCRIPT, "--cache", str(place / "logits.h5"), *ARGUMENTS, *arguments.split()]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("python -m kdcache.adapters.timm: ")
    assert WRONG[arguments] in said


def test_a_script_that_is_not_there_is_one_line(cases, capsys):
    assert cases.main(["train.py", "--cache", "logits.h5"]) == 2
    assert "train.py: expected a training script of timm, found no such file" in capsys.readouterr().err


@pytest.mark.parametrize(("criterion", "share"), [(None, 0), (nn.CrossEntropyLoss(label_smoothing=0.2), 0.2)])
def test_the_smoothing_is_that_of_the_script(cases, criterion, share):
    assert cases.smoothing_of(criterion) == share


def test_another_criterion_than_cross_entropy_is_refused(
    cases,
):
    with pytest.raises(UsageError, match="found BinaryCrossEntropy; leave --bce-loss"):
        cases.smoothing_of(cases.BinaryCrossEntropy())
