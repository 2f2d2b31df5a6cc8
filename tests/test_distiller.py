"""Distiller in Python is train-student of the command line: its teachers, its defaults, its weights bit for bit."""

import copy
import json
import re

import pytest
import torch
from cli_cases import CPU, DUMP, good
from reference_views import made_images
from train_cases import assert_same_weights, measured, metrics_of

import kdcache
from kdcache.errors import UsageError
from kdcache.models.weights import load


def test_a_distiller_trains_judges_predicts_and_saves(cache_file, tmp_path):
    distiller = kdcache.Distiller(student="tiny-2", teacher=cache_file, method="st", device="cpu")
    with pytest.raises(UsageError, match=r"call fit\(\) first"):
        distiller.evaluate()
    with pytest.raises(UsageError, match="found speed"):
        distiller.compile(speed=3)
    history = distiller.compile(lr=0.05, batch=130, seed=3).fit(epochs=2)
    assert [record["epoch"] for record in history] == [1, 2]
    assert {"top1", "agreement"} <= set(distiller.evaluate())
    assert distiller.predict(made_images(4, 8, 8)).shape == (4, 10)
    assert distiller.save(tmp_path / "student.safetensors").stat().st_size > 1000
    again = (
        kdcache.Distiller(student="tiny-2", teacher=cache_file, device="cpu").compile(lr=0.05, batch=130, seed=3).fit(2)
    )
    assert [record["total"] for record in again] == [record["total"] for record in history]


IMAGES = "synthetic:64,4,16"
SAME = {  # options of the command, and what Python calls them
    "--cache a.h5": {"teacher": "a.h5"},
    "--cache a.h5 --views 1 --fraction 0.5": {"cache": "a.h5", "views": 1, "fraction": 0.5},
    "--cache a.h5 --cache b.h5": {"teacher": ["a.h5", "b.h5"]},
    "--cache a.h5 --live": {"cache": "a.h5", "live": True},
    "--cache a.h5 --live --teacher tiny-3": {"cache": "a.h5", "teacher": "tiny-3", "live": True},
    f"--live --teacher tiny-3 --data {IMAGES}": {"teacher": "tiny-3", "live": True, "data": IMAGES},
    f"--teacher pseudo:0.8 --data {IMAGES}": {"teacher": "pseudo:0.8", "data": IMAGES},
    "--cache a.h5 --teacher pseudo:0.8": {"cache": "a.h5", "teacher": "pseudo:0.8"},
    "--cache a.h5 --mix labels:cutmix --label-smoothing 0.1": {
        "teacher": "a.h5", "mix": "labels:cutmix", "label_smoothing": 0.1,
    },
    f"--method none --data {IMAGES} --augment crop --workers 1": {
        "method": "none", "data": IMAGES, "augment": "crop", "workers": 1,
    },
    f"--method dml --data {IMAGES} --dtype bf16 --optimizer adamw": {"method": "dml", "data": IMAGES},
}  # fmt: skip
SETTINGS = {"dml": {"dtype": "bf16", "optimizer": "adamw"}}


@pytest.fixture
def around(workplace, tmp_path, monkeypatch):
    """The workplace with a second cache of its teacher, and a folder to write to."""
    monkeypatch.chdir(workplace)
    if not (workplace / "b.h5").exists():
        good(f"{DUMP} --first-view 2 -o b.h5")
    return tmp_path


@pytest.mark.parametrize("options", SAME)
def test_a_distiller_is_the_command(around, options):
    """Teachers, defaults and pixels are the same, so the weights are, bit for bit."""
    run = around / "command"
    good(f"train-student --student tiny-2 {options} --epochs 2 --batch 16 --seed 3 {CPU} --out {run}")
    distiller = kdcache.Distiller("tiny-2", device="cpu", **SAME[options])
    distiller.compile(batch=16, seed=3, **SETTINGS.get(distiller.chosen.method, {}))
    history = distiller.fit(2, around / "python", verbose=0)
    assert_same_weights(load(run / "last.safetensors"), distiller.network)
    assert metrics_of(run) == measured(history)
    facts, mine = (json.loads((folder / "run.json").read_text()) for folder in (run, around / "python"))
    assert {name for name in facts if facts[name] != mine[name]} <= {"result"}
    found = distiller.evaluate()
    assert found == {name: history[-1][name] for name in found}


def test_who_asks_and_who_is_read_is_told_apart(around, teacher):
    made_up = kdcache.PseudoTeacher(0.9, labels=[0, 1], classes=4)
    for wrong, words in (
        ({"teacher": "a.h5", "cache": "b.h5"}, "`teacher`: expected a network by its name"),
        ({"teacher": ["a.h5"], "live": True}, "name what is read with `cache` alone"),
        ({"teacher": made_up, "cache": "a.h5", "live": True}, "`live`: expected a network as teacher"),
        ({"teacher": teacher, "data": IMAGES, "weights": "w.pt"}, "`weights`: expected a network as teacher"),
        ({"teacher": made_up, "data": IMAGES, "mean": (0.5,) * 3, "std": (0.5,) * 3}, "`mean` and `std`"),
        ({"teacher": "a.h5", "weights": "w.pt"}, "`weights`: expected `live` beside it"),
        ({"teacher": "pseudo:0.9", "data": IMAGES, "taps": "f1=a"}, "`taps`: expected a live teacher"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            kdcache.Distiller("tiny-2", **wrong)


class Diary:
    """All that a callback can be told."""

    def __init__(self):
        self.told = []

    def set_model(self, distiller):
        self.distiller = distiller

    def on_train_begin(self, record):
        self.told.append("begin")

    def on_epoch_begin(self, epoch, record):
        self.told.append(epoch)

    def on_train_batch_end(self, step, terms):
        self.told.append((step, sorted(terms)))

    def on_epoch_end(self, epoch, record):
        self.told.append(record)

    def on_train_end(self, record):
        self.told.append("end")


def test_callbacks_are_told_in_the_manner_of_keras(around):
    diary, lines = Diary(), []
    distiller = kdcache.Distiller("tiny-2", "a.h5", device="cpu").compile(batch=32)
    history = distiller.fit(
        2, verbose=0, callbacks=[diary, lambda epoch, record: lines.append((epoch, record["top1"]))]
    )
    steps = [(0, ["ce", "st"]), (1, ["ce", "st"])]
    assert diary.told == ["begin", 1, *steps, history[0], 2, *steps, history[1], "end"]
    assert diary.distiller is distiller
    assert lines == list(zip([1, 2], history.history["top1"], strict=True))
    assert history.history["epoch"] == [1, 2]
    assert distiller.fit(2, verbose=0)[-1]["total"] == history[-1]["total"]  # who listens changes nothing


def test_a_callback_can_end_the_training_which_goes_on_later(around):
    def stop(epoch, record):
        distiller.stop_training = epoch == 2

    distiller = kdcache.Distiller("tiny-2", "a.h5", device="cpu").compile(batch=32, eval_every=3)
    whole = distiller.fit(4, verbose=0)
    weights = copy.deepcopy(distiller.network)
    assert len(distiller.fit(4, around / "run", verbose=0, callbacks=[stop])) == 2
    result = json.loads((around / "run" / "run.json").read_text())["result"]
    kept = json.loads((around / "run" / "evaluation.json").read_text())
    assert (result["epochs"], kept["top1"]) == (2, distiller.evaluate()["top1"])
    assert result["top1"] == kept["top1"]
    assert measured(distiller.fit(4, around / "run", verbose=0, resume=True)) == measured(whole)
    assert_same_weights(distiller.network, weights)


def test_a_training_that_is_stopped_before_it_began_has_no_epochs(around):
    class Never:
        def on_train_begin(self, record):
            distiller.stop_training = True

    distiller = kdcache.Distiller("tiny-2", "a.h5", device="cpu")
    assert distiller.fit(2, around / "run", verbose=0, callbacks=[Never()]) == []
    assert len(distiller.fit(1, around / "run", verbose=0)) == 1


@pytest.mark.parametrize("wrong", [Diary, 3, "print", []], ids=str)
def test_what_is_no_callback_is_refused(around, wrong):
    distiller = kdcache.Distiller("tiny-2", "a.h5", device="cpu")
    with pytest.raises(UsageError, match="`callbacks`: expected a function, or an object with one of on_train_begin"):
        distiller.fit(1, callbacks=[wrong])


def test_many_images_are_predicted_a_few_at_a_time(cache_file):
    distiller = kdcache.Distiller("tiny-2", cache_file, device="cpu")
    distiller.fit(1, verbose=0)
    images = made_images(10, 8, 8)
    torch.testing.assert_close(distiller.predict(images, batch=3), distiller.network(images).detach())


class Ours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = torch.nn.Linear(3 * 8 * 8, 10)

    def forward(self, images):
        return self.flat(images.flatten(1))


def test_a_distiller_takes_modules_caches_and_made_up_teachers(cache_file, cache, teacher, data):
    spec, labels = data.train.spec, data.train.labels
    made_up = kdcache.PseudoTeacher(0.9, labels=labels, seed=1, classes=10)
    for given in (str(cache_file), [cache_file], cache, teacher, Ours(), made_up):
        own = None if isinstance(given, str | list | kdcache.Cache) else spec
        student = Ours()
        before = copy.deepcopy(student.state_dict())
        distiller = kdcache.Distiller(student, given, "st", data=own).compile(batch=256)
        losses = [record["loss"] for record in distiller.fit(1)]
        assert {"ce", "st"} == losses[0].keys()
        assert not torch.equal(student.flat.weight, before["flat.weight"])  # it is the module itself that learns
        assert [record["loss"] for record in distiller.fit(1)] == losses  # from the beginning
        if isinstance(given, torch.nn.Module):
            assert all(parameter.requires_grad for parameter in given.parameters())


def test_a_made_up_teacher_of_other_rows_is_refused(data):
    made_up = kdcache.PseudoTeacher(0.9, labels=data.train.labels, classes=10)
    with pytest.raises(UsageError, match=r"expected a pseudo teacher of \d+ rows, as the data has, found one of 1300"):
        kdcache.Distiller("tiny-2", made_up, data=data.train.spec, fraction=0.25).fit(1)


def test_pixels_are_predicted_as_they_are(cache_file):
    distiller = kdcache.Distiller("tiny-2", str(cache_file))
    distiller.fit(1, verbose=0)
    with pytest.raises(UsageError, match=r"predict: expected uint8 images.*found torch\.float32"):
        distiller.predict(torch.rand(2, 3, 8, 8))


def test_a_distiller_checks_its_names_at_once_and_says_what_it_is(cache_file):
    for wrong in ({"student": "resnt20"}, {"method": "sst"}, {"mix": "images"}, {"views": 4}):
        with pytest.raises(UsageError):
            kdcache.Distiller(**{"teacher": cache_file} | wrong)
    shown = repr(kdcache.Distiller("tiny-2", cache_file).compile(lr=0.05, warmup=40))
    assert all(part in shown for part in ("tiny-2", "logits, 3 views", "'st'", "lr=0.05", "not trained")), shown


def test_a_distiller_tells_every_epoch_unless_it_is_asked_not_to(cache_file, capsys):
    distiller = kdcache.Distiller(student="tiny-2", teacher=cache_file, device="cpu")
    distiller.fit(1, verbose=0)
    assert capsys.readouterr() == ("", "")
    distiller.fit(1)
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(":")[0] for line in said.err.splitlines()][-3:] == ["loss", "evaluation", "epoch 1/1"]


def test_a_distiller_moves_only_what_a_run_wrote(cache_file, tmp_path, capsys):
    distiller = kdcache.Distiller(student="tiny-2", teacher=cache_file, device="cpu")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"found notes\.txt; name another folder"):
        distiller.fit(1, tmp_path / "results")
    for _ in range(2):
        distiller.fit(1, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "run", "run~1"]
    assert "the run that was there is now" in capsys.readouterr().err


def test_a_distiller_goes_on_or_starts_over_when_told(cache_file, tmp_path):
    def stopping(items, total, desc):
        if desc.startswith("epoch 2/"):
            raise KeyboardInterrupt
        return items

    distiller = kdcache.Distiller(student="tiny-2", teacher=cache_file, device="cpu")
    whole = distiller.fit(2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        distiller.fit(2, tmp_path / "run", stopping, verbose=0)
    with pytest.raises(UsageError, match="one that was left after epoch 1 of 2; go on with it by `resume`"):
        distiller.fit(2, tmp_path / "run", verbose=0)
    again = distiller.fit(2, tmp_path / "run", verbose=0, resume=True)
    assert [record["total"] for record in again] == [record["total"] for record in whole]
    distiller.fit(1, tmp_path / "run", verbose=0, restart=True)
    assert (tmp_path / "run~1").is_dir()
