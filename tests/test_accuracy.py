"""A teacher that was fed wrongly is seen at once: how often it is right stands wherever it is asked or used."""

from pathlib import Path

import numpy as np
import pytest
from cli_cases import CPU, DUMP, STUDENT, good
from conftest import fresh_teacher

from kdcache.cache import open_cache
from kdcache.jobs import Data, Student, dump_pseudo, facts_of, taught_by, train_student
from kdcache.proof import accuracy
from kdcache.proof.accuracy import accuracy_in_words, accuracy_of, doubt
from kdcache.train import Settings


@pytest.fixture(scope="module")
def pseudo(data, tmp_path_factory):
    """Right in exactly nine of ten training images; no evaluation images."""
    return dump_pseudo(tmp_path_factory.mktemp("pseudo") / "p.h5", data, 2, "f16", 0, {"accuracy": "0.9"})


def test_it_is_the_share_of_right_answers_in_view_0(cache, data):
    answers = cache.read(0, range(len(cache)))["logits"].argmax(1).numpy()
    found = accuracy_of(cache)
    assert found["train_top1"] == (answers == data.train.labels).mean()
    assert found["train_rows"] == len(cache)
    answers = cache.read_eval(range(260))["logits"].argmax(1).numpy()
    assert (found["eval_top1"], found["eval_rows"]) == ((answers == data.held_out.labels).mean(), 260)


def test_of_many_images_some_are_looked_at(pseudo, monkeypatch):
    assert accuracy_of(open_cache(pseudo))["train_top1"] == pytest.approx(0.9)
    monkeypatch.setattr(accuracy, "ROWS", 400)
    found = accuracy_of(open_cache(pseudo))
    assert 300 < found["train_rows"] <= 400
    assert found["train_top1"] == pytest.approx(0.9, abs=0.06)
    assert found == accuracy_of(open_cache(pseudo))


def test_of_mixed_images_and_of_other_knowledge_nothing_is_said(dump, data, tmp_path):
    mixed = Data.open(data.train.spec, "crop-flip+mixup")
    found = accuracy_of(open_cache(dump(tmp_path / "mixed.h5", data=mixed)))
    assert "train_top1" not in found
    assert "eval_top1" in found
    assert accuracy_of(open_cache(dump(tmp_path / "emb.h5", knowledge="emb"))) == {}


@pytest.mark.parametrize(
    ("top1", "rows", "classes", "doubtful"),
    [(0.1, 900, 10, True), (0.18, 900, 10, True), (0.3, 900, 10, False), (0.6, 40, 2, True), (0.2, 900, 1000, False)],
)
def test_a_teacher_near_chance_is_doubted(top1, rows, classes, doubtful):
    found = {"train_top1": top1, "train_rows": rows, "train_chance": 1 / classes}
    assert bool(doubt(found)) is doubtful
    assert not doubt(found | {"eval_top1": 0.9, "eval_rows": 100, "eval_chance": 1 / classes})
    assert not doubt({})


def test_the_doubt_names_what_is_likely():
    found = {"eval_top1": 0.102, "eval_rows": 1000, "eval_chance": 0.1}
    assert doubt(found) == (
        "the teacher is right in 10.2 % of 1,000 evaluation images, hardly more than by chance: "
        "check whether it was trained, with which mean and std, and the order of the classes"
    )


def test_a_damaged_block_is_not_for_inspect_to_name(copied):
    file = open_cache(copied)
    place = file.layout.places["knowledge/logits"].offset
    content = bytearray(Path(copied).read_bytes())
    content[place] ^= 1
    Path(copied).write_bytes(content)
    assert facts_of(copied)["accuracy"] == {}


def test_it_stands_where_the_teacher_is_asked_and_used(home, tmp_path):
    said = good(f"{DUMP} -o {tmp_path}/d.h5")
    assert "; teacher right in " in said.out
    assert " training images, " in said.out
    facts = good(f"{DUMP} -o {tmp_path}/d.h5 --json").json()["accuracy"]
    shown = accuracy_in_words({name: value for name, value in facts.items() if name.startswith("train")})
    assert shown in good(f"inspect {tmp_path}/d.h5").out
    said = good(f"{STUDENT} --cache {tmp_path}/d.h5 --out {tmp_path}/run --json")
    assert said.json()["teacher_train_top1"] == facts["train_top1"]
    assert said.json()["teacher_top1"] == facts["eval_top1"]
    assert said.err.startswith(f"teacher: d.h5, {accuracy_in_words(facts)}\n")


def test_a_teacher_in_the_loop_is_measured_on_the_evaluation_images(data, tmp_path):
    teacher = taught_by(None, fresh_teacher(data, 1))
    student = Student(data, "tiny-2", "st", Settings(epochs=1, batch=256), teacher, device="cpu")
    found = train_student(student, out=tmp_path / "run")
    assert 0 <= found["teacher_top1"] <= 1
    assert "teacher_train_top1" not in found


def test_a_made_up_teacher_that_is_seldom_right_was_asked_to_be(in_tmp):
    said = good("pseudo-teacher --accuracy 0.05 --data synthetic:400,4,8 --views 1")
    assert "teacher right in 5.0 % of 400 training images" in said.out
    assert "by chance" not in said.err
    assert (
        good(f"train-student --cache pseudo.h5 --student tiny-2 --epochs 1 {CPU} --json").json()["teacher_train_top1"]
        == 0.05
    )
    assert np.isclose(facts_of("pseudo.h5")["accuracy"]["train_chance"], 0.25, atol=0.05)


def test_no_more_labels_are_read_than_it_looks_at(cache, monkeypatch):
    expected = accuracy.of_training(cache)
    monkeypatch.setattr(type(cache), "labels", None)
    assert accuracy.of_training(cache) == expected
