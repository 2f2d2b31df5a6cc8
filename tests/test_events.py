"""Event files, read back by TensorBoard's own reader."""

import doctest
import json

import pytest
from train_cases import Fixture

from kdcache.runs import EVENTS, Run
from kdcache.train import events


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("small"), "resnet8", ["st"])


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own imports
def read_back(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(folder) -> dict[str, list[tuple[int, float]]]:
    """Every number of metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, list] = {}
    for record in records:
        for tag, value in events.scalars(record):
            found.setdefault(tag, []).append((record["epoch"], pytest.approx(value, rel=1e-6)))
    return found


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_every_number(small, tmp_path):
    small.student("st", epochs=3, tensorboard=True).train(Run(tmp_path / "run", {}))
    found = read_back(tmp_path / "run")
    assert found == expected(tmp_path / "run")
    assert found.keys() >= {"loss/st", "loss/ce", "total", "top1", "lr", "images_per_second"}


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_goes_on_has_each_epoch_once(small, tmp_path):
    run = Run(tmp_path / "run", {})
    small.student("st", epochs=3, tensorboard=True).train(run)
    path, records = run.path(EVENTS), [*run.records()]
    events.begin(path, records[:2])  # a kill came between the third epoch and its state
    events.add(path, records[2])
    assert read_back(tmp_path / "run") == expected(tmp_path / "run")
    small.student("st", epochs=3, tensorboard=True).train(Run(tmp_path / "run", {}, resume=True))
    assert read_back(tmp_path / "run") == expected(tmp_path / "run")


def test_nothing_is_written_where_nobody_asked(small, tmp_path):
    small.student("st", epochs=1).train(Run(tmp_path / "run", {}))
    assert not (tmp_path / "run" / EVENTS).exists()


def test_it_changes_nothing_that_is_trained(small):
    settings = [small.student("st", tensorboard=asked).settings.to_json() for asked in (False, True)]
    assert settings[0] == settings[1]


def test_as_documented():
    assert doctest.testmod(events).failed == 0
