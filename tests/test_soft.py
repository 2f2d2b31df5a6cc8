"""Caches without a network: pseudo teachers and imported logits; and what a dump would cost."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cli_cases import good
from safetensors.numpy import save_file

from kdcache.cache import open_cache
from kdcache.errors import DataChanged, UsageError
from kdcache.jobs import (
    Data,
    Student,
    dump_pseudo,
    import_logits,
    live_teacher,
    plan,
    pseudo,
    pseudo_teacher,
    taught_by,
)
from kdcache.jobs.pseudo import parse_confidence, pseudo_from_text
from kdcache.proof.verdicts import check_canary_records
from kdcache.pseudo import PseudoTeacher
from kdcache.train import Settings

ALL = np.arange(1300)


@pytest.fixture(scope="session")
def good_logits(data):
    """Logits that mostly agree with the labels."""
    logits = np.random.default_rng(0).normal(size=(1300, 10)).astype(np.float32)
    logits[ALL, data.train.labels] += 4
    return logits


@pytest.fixture
def saved(good_logits, tmp_path):
    np.save(tmp_path / "a.npy", good_logits)
    return str(tmp_path / "a.npy")


def bring(file, data, path, order=None, anyway=False):
    return open_cache(import_logits(str(file), data, order, path, "f32", anyway)[0])


def test_a_pseudo_cache_holds_what_the_pseudo_teacher_says(data, tmp_path):
    cache = open_cache(dump_pseudo(tmp_path / "p.h5", data, 3, "f32", 5, {"accuracy": "0.7"}))
    teacher = PseudoTeacher(0.7, labels=data.train.labels, seed=5, classes=10)
    for view in range(3):
        assert np.array_equal(cache.read(view, ALL)["logits"].numpy(), teacher.logits(view, ALL))
    assert (cache.read(0, ALL)["logits"].argmax(1).numpy() == cache.labels).sum() == 910
    assert cache.meta["teacher"]["kind"] == "pseudo"
    assert check_canary_records(cache).ok


def test_its_description_makes_the_same_teacher_again(data, tmp_path):
    asked = {"accuracy": "0.6>0.95", "errors": "per-view", "confidence": "0.5>0.9", "spread": "0.5"}
    cache = open_cache(dump_pseudo(tmp_path / "p.h5", data, 3, "f32", 0, asked))
    again = PseudoTeacher.from_json(cache.meta["teacher"]["asked"], cache.labels)
    assert np.array_equal(cache.read(2, ALL)["logits"].numpy(), again.logits(2, ALL))


@pytest.mark.parametrize("method", ["st", "st+ls", "logits", "dkd"])
def test_students_cannot_tell_a_pseudo_cache_from_a_pseudo_teacher(data, tmp_path, method):
    cache = open_cache(dump_pseudo(tmp_path / "p.h5", data, 2, "f32", 0, {"accuracy": "0.9"}))
    teacher = pseudo_from_text("pseudo:0.9", data, 0)
    results = []
    for taught in (taught_by(cache), taught_by(cache, pseudo=teacher)):
        networks, _ = Student(data, "tiny-3", method, Settings(epochs=2), taught).train()
        results.append(networks[0].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


def test_a_pseudo_teacher_like_a_cache_is_as_good(cache, cache_file, data):
    real = (cache.read(0, ALL)["logits"].argmax(1).numpy() == data.train.labels).mean()
    like = pseudo_teacher(data, 1, 0, {"like": str(cache_file)})
    assert like.accuracy(0) == pytest.approx(real, abs=0.1)


@pytest.mark.parametrize("asked", [
    {"accuracy": "1.1"}, {"accuracy": "0.5,0.5"}, {"confidence": "beta:1"}, {"confidence": "x"}, {"spread": "wide"},
    {"accuracy": "0.9>"}, {"confusion": "missing.csv"}, {"like": "missing.npy"}, {"temperature": 0.0},
])  # fmt: skip
def test_what_no_teacher_can_be_is_one_line(data, asked):
    with pytest.raises(ValueError) as error:
        pseudo_teacher(data, 2, 0, asked)
    assert "\n" not in str(error.value)


ACCURACIES = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.5, 0.6, 0.7, 0.8]
FILES = {
    "a.txt": "# by class\n" + "\n".join(map(str, ACCURACIES)),
    "b.csv": ",".join(map(str, ACCURACIES)),
    "list.json": json.dumps(ACCURACIES),
    "named.json": json.dumps({f"class{c}": share for c, share in reversed([*enumerate(ACCURACIES)])}),
    "a.npy": np.array(ACCURACIES),
    "one.json": "0.75",
}


def written(place, content) -> str:
    np.save(place, content) if isinstance(content, np.ndarray) else place.write_text(content)
    return str(place)


@pytest.mark.parametrize("name", FILES)
def test_accuracies_from_a_file(data, tmp_path, name):
    teacher = pseudo_teacher(data, 2, 0, {"accuracy": written(tmp_path / name, FILES[name])})
    expected = 0.75 if name == "one.json" else ACCURACIES
    again = PseudoTeacher(expected, labels=data.train.labels, seed=0, classes=10)
    assert np.array_equal(teacher.logits(), again.logits())
    np.testing.assert_allclose(teacher.class_accuracy(), expected, atol=0.02)


WRONG_FILES = {
    "missing.txt": None, "words.txt": "very good", "nine.json": '{"class0": 0.5}', "broken.json": "{",
    "text.json": '"good"', "over.json": "[2]", "matrix.npy": np.ones((2, 2)), "empty.txt": "", "text.npy": "no array",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FILES)
def test_files_without_accuracies(data, tmp_path, name):
    if WRONG_FILES[name] is not None:
        written(tmp_path / name, WRONG_FILES[name])
    with pytest.raises(UsageError) as error:
        pseudo_teacher(data, 2, 0, {"accuracy": str(tmp_path / name)})
    assert "\n" not in str(error.value)


def test_a_confusion_as_an_array(data, tmp_path):
    matrix = np.random.default_rng(0).dirichlet(np.ones(10), 10) + np.eye(10)
    np.savetxt(tmp_path / "a.csv", matrix, delimiter=",", fmt="%.17g")
    np.save(tmp_path / "a.npy", matrix)
    one, other = (pseudo_teacher(data, 1, 0, {"confusion": str(tmp_path / f"a.{kind}")}) for kind in ("csv", "npy"))
    assert np.array_equal(one.logits(), other.logits())


def test_what_came_out_is_said(data):
    teacher = PseudoTeacher(0.7, labels=data.train.labels, classes=10)
    said = pseudo.in_words(teacher, data.train.classes, 3)
    assert said.startswith("accuracy 0.7 in every view; by class: 0.7")
    schedule = {"accuracy": (0.5, 0.9), "views": 3}
    teacher = PseudoTeacher(schedule=schedule, labels=np.arange(400) % 20, classes=21)
    said = pseudo.in_words(teacher, [f"c{i}" for i in range(21)], 3)
    assert said == "accuracy 0.5 in view 0, 0.9 in view 2; by class in view 2: from 0.9 (c0) to 0.9 (c0)"


def test_confidence_in_words():
    assert parse_confidence("0.9") == 0.9
    assert parse_confidence("0.6,0.9") == (0.6, 0.9)
    assert parse_confidence("beta:8,2") == ("beta", 8, 2)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".h5"])
def test_logits_come_in_from_every_kind_of_file(data, good_logits, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, good_logits)
    elif suffix == ".npz":
        np.savez(path, teacher=good_logits)
    elif suffix == ".safetensors":
        save_file({"teacher": good_logits}, path)
    else:
        with h5py.File(path, "w") as file:
            file["some/logits"] = good_logits
    cache = bring(path, data, tmp_path / "out.h5")
    assert np.array_equal(cache.read(0, ALL)["logits"].numpy(), good_logits)
    assert cache.views == 1
    assert cache.meta["view"]["view"] == "none"


def test_probabilities_become_logits(data, good_logits, tmp_path):
    shares = torch.from_numpy(good_logits).softmax(1).numpy()
    np.save(tmp_path / "p.npy", shares)
    found = bring(tmp_path / "p.npy", data, tmp_path / "out.h5").read(0, ALL)["logits"].softmax(1).numpy()
    np.testing.assert_allclose(found, shares, atol=1e-6)


def test_rows_in_another_order(data, good_logits, tmp_path):
    order = np.random.default_rng(1).permutation(1300)
    np.save(tmp_path / "a.npy", good_logits[order])
    (tmp_path / "order.txt").write_text("\n".join(map(str, order)))
    cache = bring(tmp_path / "a.npy", data, tmp_path / "out.h5", str(tmp_path / "order.txt"))
    assert np.array_equal(cache.read(0, ALL)["logits"].numpy(), good_logits)


def test_another_order_of_rows_or_classes_is_noticed(data, good_logits, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).permutation(good_logits))
    np.save(tmp_path / "classes.npy", good_logits[:, ::-1])
    for name, words in (("rows", "chance"), ("classes", "classes were in the order 9, 8, 7")):
        with pytest.raises(DataChanged, match=words):
            bring(tmp_path / f"{name}.npy", data, tmp_path / "out.h5")
        assert not list(tmp_path.glob("out.h5*"))
        assert len(bring(tmp_path / f"{name}.npy", data, tmp_path / f"{name}.h5", anyway=True)) == 1300


@pytest.mark.parametrize(("values", "words"), [
    (np.zeros((5, 10), np.float32), "1300 rows"), (np.zeros((1300, 9), np.float32), "10 classes"),
    (np.full((1300, 10), np.nan, np.float32), "NaN"), (np.zeros((1300, 10), np.int64), "floats"),
    (np.zeros(1300, np.float32), "floats"),
])  # fmt: skip
def test_arrays_that_cannot_be_are_refused(data, tmp_path, values, words):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UsageError, match=words):
        bring(tmp_path / "a.npy", data, tmp_path / "out.h5")


@pytest.mark.parametrize("name", ["missing.npy", "text.npy", "text.csv", "text.h5", "text.safetensors", "text.npz"])
def test_files_that_cannot_be_are_refused(data, tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("1,2,3")
    with pytest.raises(UsageError) as error:
        bring(tmp_path / name, data, tmp_path / "out.h5")
    assert "\n" not in str(error.value)


def test_an_order_that_is_none_is_refused(data, saved, tmp_path):
    (tmp_path / "order.txt").write_text("0 0 1")
    with pytest.raises(UsageError, match="every row from 0 to 1299 once"):
        bring(saved, data, tmp_path / "out.h5", str(tmp_path / "order.txt"))


def test_students_learn_from_imported_logits(data, saved, tmp_path):
    cache = bring(saved, data, tmp_path / "out.h5")
    _, records = Student(Data.of_cache(cache), "tiny-3", "st", Settings(epochs=2), taught_by(cache)).train()
    assert records[1]["loss"]["st"] < records[0]["loss"]["st"]


def test_a_plan_says_the_bytes_of_the_file(data, dump, tmp_path):
    asked = {"method": "st+rkd", "views": "2", "codec": "f16"}
    found = plan(
        data, tmp_path / "a.h5", "cpu", teacher="tiny-3", epochs=10, students=2, batch=64, dtype="f32",
        channels_last=False, **asked,
    )  # fmt: skip
    real = dump(tmp_path / "a.h5", method="st+rkd", views=2).stat().st_size
    assert found["bytes"] == pytest.approx(real, abs=200_000)  # the header and its tables
    assert found["bytes_per_row"] == {"logits": 20, "emb": 2 * open_cache(tmp_path / "a.h5").layout.codecs["emb"].count}
    assert found["saved_seconds"] == pytest.approx(found["live_seconds"] * 0.9, rel=0.01)
    json.dumps(found)


def test_nobody_can_ask_again_who_never_was_a_network(data, tmp_path):
    cache = open_cache(dump_pseudo(tmp_path / "p.h5", data, 1, "f32", 0, {"accuracy": "0.9"}))
    with pytest.raises(UsageError, match="leave `live` out"):
        live_teacher(True, None, None, cache, data, tmp_path)


def test_a_schedule_follows_the_epochs_where_there_is_no_cache(in_tmp):
    line = "train-student --student tiny-2 --data synthetic:200,4,8 --device cpu --teacher pseudo:0.5>0.9"
    good(f"{line} --epochs 4 --out four")
    found = json.loads(Path("four/run.json").read_text())["pseudo"]["schedule"]
    assert (found["views"], found["accuracy"]) == (4, [0.5, 0.9])
    good(f"{line} --epochs 4 --views 2 --out two")
    assert json.loads(Path("two/run.json").read_text())["pseudo"]["schedule"]["views"] == 2


def test_a_schedule_that_plays_again_is_said_with_its_numbers(in_tmp):
    made = good("pseudo-teacher --accuracy 0.5>0.9 --data synthetic:200,4,8 --views 2")
    over = "its accuracy changes over 2 views, one in each epoch"
    said = f"pseudo.h5: {over}: a longer training plays that again; dump as many views as it has epochs\n"
    assert made.err.splitlines(True)[1:] == [said]
    line = "train-student --cache pseudo.h5 --student tiny-2 --device cpu --restart --out run --epochs"
    assert f"teacher: {over}: 5 epochs play that 2.5 times; dump 5 views to play it once\n" in good(f"{line} 5").err
    assert f"teacher: {over}: a training of 1 epoch ends before the last of them\n" in good(f"{line} 1 --warmup 0").err
    assert over not in good(f"{line} 2").err
    assert good("pseudo-teacher --accuracy 0.5 --data synthetic:200,4,8 --views 2 -o plain.h5").err == (
        "accuracy 0.5 in every view; by class: 0.5 0.5 0.5 0.5\n"
    )
