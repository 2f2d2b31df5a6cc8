"""What memory trainings will take: weights by their number, activations by what autograd keeps of a forward."""

import pytest
from cli_cases import good
from torch import nn

from kdcache.jobs import Data, training_memory
from kdcache.jobs.memory import FEW, kept_bytes
from kdcache.models import build
from kdcache.models.network import wrapped
from kdcache.train import Settings

DATA = "synthetic:64,10,16"
MEAN = (0.5,) * 3


def test_of_a_linear_layer_its_input_is_kept():
    network = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5)), 5, MEAN, MEAN)
    assert kept_bytes(network, (3, 4, 4)) == FEW * 3 * 4 * 4 * 4


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 3), ("adamw", 4)])
def test_students_share_a_process_in_a_pipeline_alone(optimizer, copies):
    one, four = (training_memory(Data.open(DATA, None), "tiny-3", n, Settings(optimizer=optimizer)) for n in (1, 4))
    weights = sum(p.nbytes for p in build("tiny-3", 10, MEAN, MEAN).parameters())
    assert copies * weights < four["state_bytes"] < copies * weights + 1000  # with the buffers
    alone = one["process_bytes"] + one["state_bytes"] + one["activation_bytes"]
    assert one["pipeline_bytes"] == one["processes_bytes"] == alone
    assert four["pipeline_bytes"] == four["process_bytes"] + 4 * four["state_bytes"] + four["activation_bytes"]
    assert four["processes_bytes"] == 4 * (four["process_bytes"] + four["state_bytes"] + four["activation_bytes"])


def test_a_plan_says_so(in_tmp):
    line = f"plan --teacher tiny-3 --data {DATA} --batch 16 --student tiny-2 --students"
    assert "all at once" not in good(f"{line} 1").out
    assert "as 3 processes (run -j)" in good(f"{line} 3").out
