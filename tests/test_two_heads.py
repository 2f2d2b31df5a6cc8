"""Students with a second head: what it learns, what a test sees, and that it is saved and read with the student."""

import pytest
import torch
from torch import nn
from train_cases import SPEC, assert_same_weights, dumped, teacher_of

import kdcache
from kdcache.errors import UsageError
from kdcache.jobs import Data, Student, taught_by
from kdcache.methods import build as build_method
from kdcache.models import build
from kdcache.models.heads import with_second_head
from kdcache.models.network import watch, wrapped
from kdcache.models.stages import head_of
from kdcache.models.weights import load, save
from kdcache.train import Settings


@pytest.fixture(scope="module")
def data():
    return Data.open(SPEC, "crop-flip")


@pytest.fixture(scope="module")
def trained(data):
    student = Student(data, "tiny-2", "hard", Settings(epochs=1, batch=16), taught_by(None, teacher_of("tiny-3", data)))
    return student.train()[0][0]


def test_both_heads_learn_and_a_test_sees_their_mean(data, trained):
    fresh = with_second_head(build("tiny-2", 4, data.train.mean, data.train.std))
    images = data.train.read(range(5))
    with watch(trained.eval(), ["emb", "logits", "logits.dist"]) as look, torch.no_grad():
        seen = look(images)
        head = trained.body.get_submodule(head_of(trained)[0])
        torch.testing.assert_close(seen["logits"], (head.own(seen["emb"]) + head.taught(seen["emb"])) / 2)
        torch.testing.assert_close(seen["logits.dist"], head.taught(seen["emb"]))
    for side in ("own", "taught"):
        before = fresh.body.get_submodule(head_of(fresh)[0]).get_submodule(side)
        assert not torch.equal(before.weight, head.get_submodule(side).weight)
    with watch(trained.train(), ["emb", "logits"]) as look, torch.no_grad():
        seen = look(images)
        torch.testing.assert_close(seen["logits"], head.own(seen["emb"]))


def test_it_is_saved_and_read_with_its_network(data, trained, tmp_path):
    save(trained, tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors")
    assert_same_weights(found, trained)
    assert found.arch["heads"] == 2
    images = data.train.read(range(5))
    with torch.no_grad():
        assert torch.equal(found(images), trained.eval()(images))


def test_other_methods_leave_a_network_as_it_is(data):
    student = Student(
        data, "tiny-2", "hard/one+st", Settings(epochs=1, batch=16), taught_by(None, teacher_of("tiny-3", data))
    )
    assert "heads" not in student.networks()[0][0].arch
    both = Student(data, "tiny-2", "st+hard", Settings(epochs=1, batch=16), taught_by(None, teacher_of("tiny-3", data)))
    network, method = both.networks()
    assert network[0].arch["heads"] == 2
    assert method.two_heads


def test_the_second_head_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    made = [with_second_head(build("tiny-2", 4, (0.5,) * 3, (0.5,) * 3), seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    heads = [network.body.get_submodule(head_of(network)[0]).taught.weight for network in made]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert with_second_head(made[0]) is made[0]
    assert len(list(made[0].modules())) == len(list(with_second_head(made[0]).modules()))


def test_a_network_without_a_linear_head_is_refused():
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="one linear layer"):
        with_second_head(wrapped(body, 4, (0.5,) * 3, (0.5,) * 3))


def test_a_loop_of_ones_own_is_told_of_the_head_that_it_lacks():
    with pytest.raises(UsageError, match="with_second_head"):
        build_method("hard").terms({"logits": torch.zeros(2, 4)}, {"logits": torch.ones(2, 4)}, None)


def test_a_module_is_trained_from_the_beginning_again_and_its_head_is_replaced_once(data, tmp_path):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 16 * 16, 4)

        def forward(self, images):
            return self.fc(images.flatten(1))

    dumped(tmp_path / "a.h5", data, teacher_of("tiny-3", data), "st")
    distiller = kdcache.Distiller(module := Linear(), str(tmp_path / "a.h5"), "hard").compile(batch=16)
    totals = [[record["total"] for record in distiller.fit(2, verbose=0)] for _ in range(2)]
    assert totals[0] == totals[1]
    network = wrapped(module, 4, (0.5,) * 3, (0.5,) * 3)
    assert with_second_head(network).body.fc is module.fc
