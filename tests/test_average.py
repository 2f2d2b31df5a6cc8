"""A running mean of the weights: by its formula, and beside the network in records, results and files."""

import copy

import pytest
import torch
from cli_cases import TEACHER, good
from train_cases import Fixture, assert_same_weights

from kdcache import jobs
from kdcache.errors import UsageError
from kdcache.models import build
from kdcache.models.weights import load
from kdcache.train import Settings
from kdcache.train.average import Average


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("small"), "resnet8", ["st"])


def test_it_is_the_mean_by_its_formula():
    """The decay of the n-th step is at most (1+n)/(10+n), of statistics as of weights; counts are the last."""
    network = build("tiny-3", 4, (0.5,) * 3, (0.5,) * 3)
    average, expected = Average(network, 0.4), copy.deepcopy(network.state_dict())
    for step in range(1, 8):
        with torch.no_grad():
            for value in network.state_dict().values():
                value.copy_(torch.randn(value.shape) if value.is_floating_point() else step)
        decay = min(0.4, (1 + step) / (10 + step))
        average.follow()
        for name, value in network.state_dict().items():
            mean = decay * expected[name].double() + (1 - decay) * value.double()
            expected[name] = mean if value.is_floating_point() else value.clone()
    for name, value in average.network.state_dict().items():
        assert torch.allclose(value.double(), expected[name].double(), rtol=1e-6, atol=1e-7), name


def test_it_is_measured_saved_and_named_beside_the_network(small, tmp_path):
    found = jobs.train_student(small.student("st", ema=0.5, epochs=3), out=tmp_path / "run")
    assert {"top1", "ema_top1", "ema_nll", "ema_agreement"} <= found.keys()
    mean, last = (load(tmp_path / "run" / f"{name}.safetensors") for name in ("ema", "last"))
    assert mean.facts["ema"] == 0.5
    evaluation = small.data.evaluation(None, "cpu", 0)
    assert evaluation(mean)["nll"] == pytest.approx(found["ema_nll"], rel=1e-6)
    assert evaluation(last)["nll"] == pytest.approx(found["nll"], rel=1e-6)
    assert found["ema_nll"] != found["nll"]


def test_the_network_itself_is_the_one_of_before(small):
    [with_mean], _ = small.student("st", ema=0.9).train()
    [without], _ = small.student("st").train()
    assert_same_weights(with_mean, without)
    assert "ema" not in Settings().to_json()


def test_a_command_says_both(tmp_path):
    found = good(f"{TEACHER} --ema 0.9 --json --out {tmp_path}/run").json()
    assert {"top1", "ema_top1"} <= found.keys()
    assert "ema_top1" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_decay_of_one_is_refused():
    with pytest.raises(UsageError, match="`ema`"):
        Settings(ema=1.0)
