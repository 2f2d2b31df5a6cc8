"""A batch that is learnt in parts: the step of the whole one, where a method's loss is a mean over rows."""

import numpy as np
import pytest
import torch
from plain_cases import PLAIN
from train_cases import Fixture, assert_same_weights

from kdcache.errors import UsageError
from kdcache.train import Settings


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """A fifth of the images has no label."""
    fixture = Fixture(tmp_path_factory.mktemp("partly"), "resnet8", ["st", "at", "dkd", "vid", "kdsvd", "mhgd", "rkd"])
    fixture.data.train.labels[::5] = -1
    return fixture


def trained(fixture, text, said=None, **settings):
    remark = (lambda line: None) if said is None else said.append
    [network, *_], records = fixture.student(text, PLAIN, **settings).train(remark=remark)
    return network, [record["total"] for record in records]


@pytest.mark.parametrize("text", ["none", "st+at", "dkd", "bkd", "vid", "kdsvd/rep"])
def test_parts_of_any_number_make_the_step_of_the_whole(partly, text):
    """Of 16 images in 5 parts, none is as large as its neighbour."""
    whole, losses = trained(partly, text)
    for parts in (2, 5, 8):
        network, found = trained(partly, text, accumulate=parts)
        assert found == pytest.approx(losses, rel=1e-5)
        for (name, mine), theirs in zip(network.state_dict().items(), whole.state_dict().values(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6), name


def test_what_compares_images_says_that_it_compares_those_of_a_part(partly):
    for text, says in (("st", False), ("dist", True), ("st+mhgd", True), ("queue", True)):
        said = []
        trained(partly, text, said, accumulate=2, epochs=1, warmup=0)
        assert any("does so in each part of a batch" in line for line in said) is says


def test_one_part_is_the_training_of_before(partly):
    assert_same_weights(trained(partly, "st")[0], trained(partly, "st", accumulate=1)[0])
    assert "accumulate" not in Settings().to_json()


def test_a_last_batch_that_is_small_has_fewer_parts(partly):
    assert np.isfinite(trained(partly, "st", batch=46, accumulate=20)[1]).all()  # of 3 images


def test_parts_of_one_image_are_refused():
    with pytest.raises(UsageError, match="two images or more"):
        Settings(batch=16, accumulate=9)
