"""Processes that train together end where one alone would, up to rounding: whatever the method, and however many."""

import time

import numpy as np
import pytest
import torch
from plain_cases import PLAIN
from team_cases import in_processes
from train_cases import Fixture, asks

from kdcache.errors import CacheError, ToldElsewhere, UsageError
from kdcache.jobs import train_students
from kdcache.methods import METHODS
from kdcache.ranks import Ranks
from kdcache.train import Listeners, joined

SMALL = {"epochs": 2, "batch": 16, "lr": 0.02, "warmup": 0.5}
SYNC = {"sync_bn": True}
FEW = [
    ("none", PLAIN, {"ema": 0.9, "clip": 1.0}),
    ("st+at", PLAIN, {"batch": 17, "accumulate": 3}),
    ("st:0.5", PLAIN, {"batch": 47}),  # a last batch of two
    ("dkd", PLAIN, {"optimizer": "adamw", "lr": 1e-3}),
    ("fitnet", PLAIN, SYNC),  # two stages, and batch norm in a connector
    ("rkd+vid", PLAIN, {}),
    ("crd:negatives=9", PLAIN, {}),
    ("queue:size=20", PLAIN, {}),
    ("kdsvd", PLAIN, {}),  # clipped
    ("st:0.5+kdsvd", PLAIN, {"optimizer": "dot"}),
    ("dml", PLAIN, {}),
    ("mlkd", PLAIN, {}),  # two views a step
    ("hard", PLAIN, {}),
    ("st", "resnet8", SYNC | {"grad_checkpoint": True}),
]
"""One of each kind; a fifth of the images has no label, in all of them."""


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """49 images, a fifth of them without a label."""
    names = ["st", "at", "vid", "fitnet", "rkd", "kdsvd", "mlkd"]
    fixture = Fixture(tmp_path_factory.mktemp("partly"), "resnet8", names)
    fixture.data.train.labels[::5] = -1
    return fixture


def trained(fixture, text, model=PLAIN, **settings):
    """The losses of all epochs and the weights, as plain data."""
    networks, records = fixture.student(text, model, **SMALL | settings).train()
    losses = [value for record in records for value in (*record["loss"].values(), record.get("nll", 0.0))]
    return losses, {name: value.numpy() for name, value in networks[0].state_dict().items()}, records[-1]


def assert_same(found, expected, tolerance=1e-4):
    assert not isinstance(found, Exception), found
    (losses, weights, record), (theirs, others, told) = found, expected
    assert losses == pytest.approx(theirs, rel=tolerance, abs=tolerance)
    assert record.get("train_top1") == pytest.approx(told.get("train_top1"))
    for name, value in weights.items():
        assert np.allclose(value, others[name], rtol=tolerance, atol=tolerance), name


def compare(fixture, folder, size, cases):
    """Each of the cases, alone and among so many processes."""
    several = in_processes(lambda: [trained(fixture, *case[:-1], **case[-1]) for case in cases], size, folder)
    for rank, found in enumerate(several):
        assert not isinstance(found, Exception | int), (rank, found)
    for number, case in enumerate(cases):
        alone = trained(fixture, *case[:-1], **case[-1])
        for found in several:
            assert_same(found[number], alone)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    fixture = Fixture(tmp_path_factory.mktemp("every"), "resnet8", [name for name in METHODS if asks(name)])
    fixture.data.train.labels[::5] = -1
    return fixture


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_method_ends_where_it_does_alone(every, tmp_path, size):
    options = {"crd": "crd:negatives=9", "queue": "queue:size=20"}
    cases = [options.get(name, name) for name, method in METHODS.items() if not method.live_only]
    slower = SYNC | {"lr": 0.005}  # at SMALL's, dist diverges here, and rounding with it
    compare(every, tmp_path, size, [(text, PLAIN, slower) for text in cases])


def test_two_processes_end_where_one_does(partly, tmp_path):
    """In the losses of each epoch, in what is right, in the weights. The last batch of 16 rows has one, and is left."""
    compare(partly, tmp_path, 2, FEW)


def test_processes_that_have_trained_meet_again(tmp_path, monkeypatch):
    """torchrun's store has kept what the first training left there, and the first process comes late to the second."""
    ranks = Ranks.from_environment

    def late():
        time.sleep(0.3 * ranks().first)
        return ranks()

    monkeypatch.setattr(Ranks, "from_environment", late)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def ranks_added():
        with joined("cpu") as team:
            return float(team.total(torch.tensor(1.0 + team.rank)))

    assert in_processes(ranks_added, 2, tmp_path, times=2, port=store.port) == [3.0, 3.0]


def test_what_one_process_meets_is_said_by_it_alone(tmp_path):
    def meets():
        with joined("cpu") as team:
            if team.rank == 1:
                raise CacheError("a.h5", "a whole block", "a damaged one", "copy it again")
            team.total(torch.zeros(1))

    first, second = in_processes(meets, 2, tmp_path)
    assert type(second) is CacheError
    assert type(first) is ToldElsewhere


def test_a_callback_of_the_first_process_stops_all(partly, tmp_path):
    def stopped():
        def stop(epoch, record):
            listeners.stop = Ranks.from_environment().first

        listeners = Listeners([stop])
        _, records = partly.student("st", PLAIN, **SMALL).train(listeners=listeners)
        return len(records)

    assert in_processes(stopped, 2, tmp_path) == [1, 1]


def test_several_students_are_refused(partly, tmp_path):
    def refused():
        train_students([partly.student(text, PLAIN, **SMALL) for text in ("st", "none")], root=tmp_path / "runs")

    found = in_processes(refused, 2, tmp_path)
    assert {type(one) for one in found} == {UsageError, ToldElsewhere}
    assert all("one training" in str(one) for one in found)
