"""Trainings that begin with weights: a new head, and a backbone that stays, or learns at a rate of its own."""

import pytest
import torch
from cli_cases import good, refused
from train_cases import assert_same_weights, metrics_of

import kdcache
from kdcache.errors import KdcacheError, UsageError
from kdcache.jobs import Data, Student, train_teacher
from kdcache.models import weights
from kdcache.models.begin import begin
from kdcache.models.stages import head_of
from kdcache.train import Settings

FOUR, TEN = "synthetic:48,4,16", "synthetic:48,10,16"
MODELS = ["tiny-3", "timm:vit_tiny_patch16_224:img_size=16,depth=2,embed_dim=48,num_heads=3"]


@pytest.fixture(scope="module", params=MODELS, ids=["tiny-3", "vit"])
def model(request):
    return request.param


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Weights of ten classes."""
    folder = tmp_path_factory.mktemp("ten")
    train_teacher(model, Data.open(TEN, None), Settings(epochs=1, batch=24, lr=0.01), out=str(folder))
    return folder / "last.safetensors"


def fitted(model, data=FOUR, **settings):
    chosen = Settings(**{"epochs": 2, "batch": 24, "lr": 0.05, "warmup": 0} | settings)
    [network], _ = Student(Data.open(data, None), model, "none", chosen).train()
    return network


def parts(network):
    """Names of the tensors before the head, and of the head."""
    heads = tuple(f"body.{path}." for path in head_of(network))
    names = [name for name in network.state_dict() if name.startswith("body.")]
    return [name for name in names if not name.startswith(heads)], [name for name in names if name.startswith(heads)]


def test_a_head_of_other_classes_is_new_and_the_rest_is_taken(model, trained):
    network, old = Data.open(FOUR, None).network(model, 0), weights.load(trained)
    fresh = network.state_dict()
    fresh = {name: tensor.clone() for name, tensor in fresh.items()}
    said = begin(network, trained)
    before, head = parts(network)
    now, theirs = network.state_dict(), old.state_dict()
    assert all(torch.equal(now[name], theirs[name]) for name in before)
    assert all(torch.equal(now[name], fresh[name]) for name in head)
    assert "a new head of 4 classes, in place of" in said
    assert "[10" in said
    assert "its head too" in begin(Data.open(TEN, None).network(model, 0), trained)


def test_plain_tensors_do_as_well(model, trained, tmp_path):
    old, network = weights.load(trained), Data.open(FOUR, None).network(model, 0)
    torch.save({"state_dict": old.body.state_dict()}, tmp_path / "w.pth")
    begin(network, tmp_path / "w.pth")
    before, _ = parts(network)
    assert all(torch.equal(network.state_dict()[name], old.state_dict()[name]) for name in before)


def test_mean_and_std_come_with_the_weights(tmp_path):
    other = Data.open(FOUR, None).network("tiny-3", 0, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    weights.save(other, tmp_path / "a.safetensors")
    data = Data.open(FOUR, None)
    begun = data.network("tiny-3", 0, init_from=tmp_path / "a.safetensors")
    assert torch.equal(begun.normalize.mean, other.normalize.mean)
    assert torch.equal(begun.normalize.scale, other.normalize.scale)
    given = data.network("tiny-3", 0, ((0.7,) * 3, (0.8,) * 3), init_from=tmp_path / "a.safetensors")
    assert given.normalize.mean.tolist() == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(("name", "words"), [("tiny-4", "of another shape"), ("resnet8", "missing")])
def test_weights_of_another_network_are_refused(name, words, tmp_path):
    data = Data.open(FOUR, None)
    weights.save(data.network("tiny-3", 0), tmp_path / "a.safetensors")
    with pytest.raises(KdcacheError, match=words):
        data.network(name, 0, init_from=tmp_path / "a.safetensors")


def test_only_libraries_have_pretrained_weights():
    with pytest.raises(UsageError, match="a network of torchvision, timm or the Hugging Face hub, found tiny-3"):
        Data.open(FOUR, None).network("tiny-3", 0, init_from="pretrained")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_backbone_stays_as_it_was(model, trained, optimizer):
    network = fitted(model, init_from=str(trained), freeze="backbone", optimizer=optimizer)
    before, head = parts(network)
    now, theirs = network.state_dict(), weights.load(trained).state_dict()
    assert all(torch.equal(now[name], theirs[name]) for name in before)  # the statistics of BatchNorm, too
    first = Data.open(FOUR, None).network(model, 0).state_dict()
    assert not any(torch.equal(now[name], first[name]) for name in head)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_backbone_at_a_tenth_of_the_rate(model, optimizer):
    """In one step without momentum or decay, it goes a tenth of the way, and the head all of it."""
    one = {"epochs": 1, "batch": 48, "momentum": 0, "weight_decay": 0, "optimizer": optimizer, "lr": 0.01}
    start = Data.open(FOUR, None).network(model, 0).state_dict()
    whole, tenth = (fitted(model, **one, backbone_lr=factor) for factor in (1.0, 0.1))
    before, head = parts(whole)
    for name, _ in whole.named_parameters():
        steps = [(found.get_parameter(name) - start[name]).detach() for found in (whole, tenth)]
        share = 0.1 if name in before else 1.0
        torch.testing.assert_close(steps[1], share * steps[0], atol=1e-6, rtol=1e-2)
    assert head


def test_a_run_that_is_resumed_ends_as_one_that_was_not(model, trained, tmp_path, monkeypatch):
    data, settings = Data.open(FOUR, None), Settings(epochs=3, batch=24, init_from=str(trained), backbone_lr=0.1)
    train_teacher(model, data, settings, out=str(tmp_path / "whole"))

    def stop_after(n):
        def progress(batches, **_):
            nonlocal n
            n -= 1
            if n < 0:
                raise KeyboardInterrupt
            return batches

        return progress

    with pytest.raises(KeyboardInterrupt):
        train_teacher(model, data, settings, out=str(tmp_path / "cut"), progress=stop_after(2))
    train_teacher(model, data, settings, out=str(tmp_path / "cut"), resume=True)
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    found = [weights.load(tmp_path / name / "last.safetensors") for name in ("cut", "whole")]
    assert_same_weights(*found)


def test_settings_of_before_are_as_they_were():
    assert {"init_from", "freeze", "backbone_lr"}.isdisjoint(Settings().to_json())
    assert Settings(freeze="backbone").changed() == {"freeze": "backbone"}
    with pytest.raises(UsageError, match="leave one of them out"):
        Settings(freeze="backbone", backbone_lr=0.1)


def test_a_loss_that_the_head_has_no_part_in_is_refused():
    teacher = Data.open(FOUR, None).network("tiny-3", 1)
    distiller = kdcache.Distiller("tiny-3", teacher, "at:ce=0", data=FOUR).compile(freeze="backbone", batch=24)
    with pytest.raises(UsageError, match="a loss that trained weights have a part in"):
        distiller.fit(epochs=1, verbose=0)


def test_a_module_of_the_users_is_left_as_it_was():
    """Its head is its last layer, if it answers with a number for each class."""
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    first = body[1].weight.detach().clone()
    distiller = kdcache.Distiller(body, None, "none", data=FOUR).compile(freeze="backbone", batch=24)
    distiller.fit(epochs=1, verbose=0)
    assert torch.equal(body[1].weight, first)
    assert body[1].weight.requires_grad
    strange = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8), torch.nn.AdaptiveAvgPool1d(4))
    with pytest.raises(UsageError, match="a network whose head is known"):
        kdcache.Distiller(strange, None, "none", data=FOUR).compile(freeze="backbone").fit(epochs=1, verbose=0)


def test_the_command_says_what_it_begins_with(in_tmp):
    good(f"train-teacher --model tiny-3 --data {TEN} --epochs 1 --batch 24")
    begun = f"--init-from runs/teacher-{TEN.replace(':', '-').replace(',', '-')}-tiny-3/last.safetensors"
    said = good(f"train-teacher --model tiny-3 --data {FOUR} --epochs 1 --batch 24 {begun} --freeze backbone").err
    assert "a new head of 4 classes, in place of fc.bias [10], fc.weight [10, 6]" in said
    said = good(f"train-student --student tiny-3 --method none --data {FOUR} --epochs 1 --batch 24 {begun}").err
    assert "a new head of 4 classes" in said
    refused(f"train-teacher --model tiny-3 --data {FOUR} --init-from nowhere.pth", 1, "nowhere.pth")
    refused(f"train-teacher --model tiny-3 --data {FOUR} --freeze head", 2, "backbone")
