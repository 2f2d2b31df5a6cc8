"""Recipes: a small one runs to its end, goes on where it was, and makes nothing anew that a change does not concern."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import CPU, DATA, good, kdcache, pressing, refused
from PIL import Image
from recipe_cases import RECIPE, write

from kdcache.cache import open_cache
from kdcache.methods import compose
from kdcache.recipe import Recipe, matrix, setup
from kdcache.recipe.plan import Plan
from kdcache.recipe.results import plain_beside
from kdcache.report.statistics import half_difference, welch
from kdcache.train.records import forget_peak, peak_bytes

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))
AT = '[[student]]\nname = "at"\nmethod = "at"\nmodel = "tiny-2"\nlive = true\n'
assert "live = true" in RECIPE


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a recipe that was run to its end. Not to be changed: see `finished`."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good(f"run {write()} {CPU}")
    return folder


@pytest.fixture
def finished(done, tmp_path) -> Path:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path


def missing(line: str = "small.toml") -> dict[str, int]:
    """How many stages of each kind a run would make."""
    found: dict[str, int] = {}
    for stage in good(f"run {line} --dry-run --json {CPU}").json()["stages"]:
        found[stage["stage"]] = found.get(stage["stage"], 0) + (stage["state"] in ("missing", "begun"))
    return {kind: number for kind, number in found.items() if number}


def networks() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}


def rows(found: dict) -> list[dict]:
    """The table without times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found["rows"]]


def test_the_table(finished):
    said = good(f"run small.toml --json {CPU}")
    found = said.json()
    assert said.err == ""
    assert [row["name"] for row in found["rows"]] == ["teacher", "plain", "st/4 a", "at", "pseudo"]
    assert [len(row["top1_all"]) for row in found["rows"]] == [1, 2, 2, 2, 2]
    assert [row["weights"] for row in found["rows"]] == [769, 406, 406, 406, 406]
    assert all(0 <= row["top1"] <= 1 for row in found["rows"])
    assert Path(found["sheet"]).is_file()
    assert Path(found["plot"]).is_file()
    assert [one["name"] for one in json.loads(Path(found["points"]).read_text())] == ["plain", "st"]
    assert json.loads(Path("runs/small/table.json").read_text())["rows"] == found["rows"]
    text = good("run small.toml").out
    assert all(name in text for name in ("plain", "st/4 a", "accuracy %", "runs/small/sheet.png"))
    assert Path("runs/small/table.md").read_text().count("\n|") == 7


def test_every_student_stands_beside_the_plain_one_that_it_is_like(finished):
    teacher, plain, *others = json.loads(Path("runs/small/table.json").read_text())["rows"]
    assert not {"gain", "gain_p"} & (teacher.keys() | plain.keys())
    for row in others:
        assert row["gain"] == row["top1"] - plain["top1"]
        assert row["gain_p"] == welch(row["top1_all"], plain["top1_all"])
        assert row["gain_ci"] == half_difference(row["top1_all"], plain["top1_all"])
    text = good("run small.toml").out
    assert all(words in text for words in ("  gain  ", "± half of its 95 % interval", "Welch's t-test"))


def test_plain_students_of_another_network_or_of_other_epochs_are_no_measure():
    asked = [{"method": "none"}, {"method": "none", "lr": 1.0}, {"method": "st", "lr": 1.0}, {"method": "at"}]
    asked += [{"method": "st", "epochs": 2}, {"method": "st", "fraction": 0.5}, {"method": "st", "model": "tiny-3"}]
    tables = [[f"name = {str(i)!r}", *(f"{k} = {v!r}" for k, v in keys.items())] for i, keys in enumerate(asked)]
    Path("plain.toml").write_text("\n".join(["[teacher]", 'model = "tiny-3"', *lines_of(tables)]))
    recipe = Recipe.load("plain.toml")
    plan = Plan(recipe, "runs")
    beside = [plain_beside(plan, part) for part in recipe.students]
    assert [found and found.name for found in beside] == [None, None, "1", "0", None, None, None]


def lines_of(tables: list[list[str]]) -> list[str]:
    return [line for table in tables for line in ("[[student]]", *table)]


def test_the_table_for_other_programs(finished):
    found = json.loads(Path("runs/small/table.json").read_text())["rows"]
    with open("runs/small/table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [row["name"] for row in found]
    assert [float(line["top1"]) for line in lines] == [row["top1"] for row in found]
    assert all(0 <= float(line["top1_low"]) <= float(line["top1_high"]) <= 1 for line in lines[1:])
    assert [line["seeds"] for line in lines] == ["1", "2", "2", "2", "2"]


def test_what_was_published_stands_beside_what_came_out(finished):
    new = 'method = "st:T=4"\npublished = 92.5\nsource = "A paper, table 1"\n'
    write('method = "st:T=4"', new)
    found = good("run small.toml --json").json()
    row = found["rows"][2]
    assert (row["published"], row["difference"]) == (92.5, pytest.approx(100 * row["top1"] - 92.5, abs=1e-4))
    assert all("difference" not in other for other in found["rows"] if other is not row)
    heads = found["text"].split("\n")[0]
    assert heads.index("published %") < heads.index("accuracy %")
    assert "published: A paper, table 1" in found["text"]
    with open("runs/small/table.csv", newline="") as file:
        assert [line["published"] for line in csv.DictReader(file)] == ["", "", "92.5", "", ""]


def test_what_a_kill_left_of_its_files_is_swept(finished):
    left = [Path("runs/small", f".{name}.0123abcd") for name in ("recipe.toml", "table.csv", "table.json")]
    for path in left:
        path.write_text("half")
    good(f"run small.toml {CPU}")
    assert not any(path.exists() for path in left)


def test_without_matplotlib_the_points_are_kept(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = good("run small.toml --json").json()
    assert "plot" not in found
    assert Path(found["points"]).is_file()
    assert "pip install 'kdcache[plot]'" in good("run small.toml").out


def test_a_second_run_makes_nothing(finished):
    before, tables = networks(), [path.read_bytes() for path in sorted(Path("runs/small").glob("table.*"))]
    assert len(before) == 3 * (1 + 4 * 2)  # last, best and state of the teacher and of each student
    good(f"run small.toml {CPU}")
    assert networks() == before
    assert [path.read_bytes() for path in sorted(Path("runs/small").glob("table.*"))] == tables


def test_more_seeds_are_added(finished):
    before = networks()
    found = good(f"run small.toml --seeds 3 --json {CPU}").json()
    assert len(found["rows"][1]["top1_all"]) == 3
    assert {path: time for path, time in networks().items() if path in before} == before
    assert len(networks()) == len(before) + 3 * 4


EDITS = {
    "a comment": ("seeds = 2", "seeds = 2 # a comment", {}),
    "the title": ("A small one", "Another title", {}),
    "how often it is evaluated": ("epochs = 1", "epochs = 1\neval_every = 5", {}),
    "what is the default anyway": ("views = 2", 'views = 2\ncodec = "f16"\nbatch = 256', {}),
    "another name": ('name = "st/4 a"', 'name = "st4"', {}),
    "a student less": (AT.replace('name = "at"\n', ""), "", {}),
    "one more": ("[plot]", '[[student]]\nname = "dkd"\nmethod = "dkd"\nmodel = "tiny-2"\n[plot]', {"student": 2}),
    "one who asks for more": (
        "[plot]", '[[student]]\nname = "cached"\nmethod = "at"\nmodel = "tiny-2"\n[plot]', {"student": 2, "cache": 1},
    ),
    "the same by another name": ("[plot]", '[[student]]\nmodel = "tiny-2"\nmethod = "st:T=4"\n[plot]', {}),
    "a temperature": ("st:T=4", "st:T=2", {"student": 2}),
    "the views": ("views = 2", "views = 3", {"cache": 1, "student": 8}),
    "the teacher": ('model = "tiny-3"', 'model = "tiny-3"\nlr = 0.2', {"teacher": 1, "cache": 1, "student": 8}),
    "all trainings": ("batch = 16", "batch = 8", {"teacher": 1, "cache": 1, "student": 8}),
    "the images": ("synthetic:64,4,16", "synthetic:48,4,16", {"teacher": 1, "cache": 1, "student": 8}),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_concerns_what_depends_on_it(edit, finished):
    old, new, expected = EDITS[edit]
    assert missing(write(old, new)) == expected


def test_what_is_missing_is_asked_for_alone(finished):
    before = networks()
    good(f"run {write('[plot]', AT.replace('at', 'more at', 1).replace('live = true', '') + '[plot]')} {CPU}")
    files = sorted(path.name for path in Path("runs/small").glob("cache-*/*"))
    assert files == ["st+at.h5", "st.h5"]
    assert {path: time for path, time in networks().items() if path in before} == before
    assert missing() == {}


def test_caches_may_be_removed_when_their_students_are_trained(finished):
    for folder in Path("runs/small").glob("cache-*"):
        shutil.rmtree(folder)
    stages = good("run small.toml --dry-run --json").json()["stages"]
    assert [stage["state"] for stage in stages if stage["stage"] == "cache"] == ["not needed"]
    good("run small.toml")
    assert not list(Path("runs/small").glob("cache-*"))


def test_a_dry_run_prints_the_plan_and_makes_nothing():
    said = good(f"run {write()} --dry-run")
    assert not Path("runs").exists()
    lines = said.out.splitlines()
    assert lines[0].split() == ["stage", "name", "model", "there", "bytes", "time", "folder"]
    assert [line.split()[0] for line in lines[1:7]] == ["teacher", "cache", "student", "student", "student", "student"]
    assert lines[-2].startswith("synthetic:64,4,16, 10 stages of 10 to do: ")


@pytest.mark.parametrize("after", [3, 7, 14])
def test_interrupted(after, done, monkeypatch):
    whole = json.loads((done / "runs/small/table.json").read_text())
    with monkeypatch.context() as patch:
        pressing(patch, "study", after)
        assert kdcache(f"run {write()} {CPU}").code == 130
    assert rows(good(f"run small.toml --json {CPU}").json()) == rows(whole)


def test_a_line_for_every_stage(done):
    said = good(f"run {write()} --seeds 1 {CPU}").err.splitlines()
    assert said[0] == "small: 6 stages to do, 0 there already"
    assert [line.split()[:2] for line in said[1:-1]] == [
        ["1/6", "teacher"], ["2/6", "cache"], ["3/6", "student"], ["4/6", "student"], ["5/6", "student"],
        ["6/6", "student"],
    ]  # fmt: skip
    assert said[-1].startswith("small: done in ")


def test_images_are_opened_once(monkeypatch):
    opened, real = [], setup.open_source
    monkeypatch.setattr(setup, "open_source", lambda *asked, place: opened.append(asked) or real(*asked))
    monkeypatch.setattr("kdcache.jobs.data.open_source", None)
    monkeypatch.setattr("kdcache.jobs.taught.open_source", None)
    Recipe.load(write("show = true", "show = true\nfraction = 0.5")).run()
    assert sorted(opened) == [("synthetic:64,4,16", "eval"), ("synthetic:64,4,16", "train")]


def test_a_method_is_parsed_once(monkeypatch):
    compose.parsed.cache_clear()
    texts, real = [], compose.parse_part
    monkeypatch.setattr(compose, "parse_part", lambda text, place: texts.append((text, place)) or real(text, place))
    Recipe.load(write()).plan()
    assert sorted(texts) == sorted(set(texts))


LISTS = {
    "one list": ({"method": ["st", "dkd"]}, ["st", "dkd"]),
    "two": ({"method": ["st", "dkd"], "fraction": [1, 0.5]},
            ["st, fraction 1", "st, fraction 0.5", "dkd, fraction 1", "dkd, fraction 0.5"]),
    "with a name": ({"name": "mine", "method": ["st", "dkd"], "epochs": 3}, ["mine, st", "mine, dkd"]),
    "numbers and truths": ({"lr": [0.1, 1e-3], "nesterov": [True, False]},
                           ["st, lr 0.1, nesterov", "st, lr 0.1, not nesterov", "st, lr 0.001, nesterov",
                            "st, lr 0.001, not nesterov"]),
    "lists that are values": ({"betas": [0.9, 0.99], "cache": ["a", "b"], "seeds": [1, 2]}, ["st"]),
    "none": ({"method": "at"}, ["at"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_a_list_stands_for_several_students(case):
    keys, names = LISTS[case]
    found = list(matrix.students(keys))
    assert [name for name, _ in found] == names
    assert all(student | keys | {"name": name} == student | keys | {"name": name} for name, student in found)
    assert len({json.dumps(student) for _, student in found}) == len(names)


def test_a_temperature_goes_to_the_parts_that_have_one():
    (_, student), (_, hotter) = matrix.students({"method": "st+at+dkd:2", "T": [1, 8]})
    assert student["method"] == "st:T=1+at+dkd:2:T=1"
    assert hotter["method"] == "st:T=8+at+dkd:2:T=8"


def small(text: str, **options) -> dict:
    """What a recipe of this text comes to."""
    Path("r.toml").write_text(f"data = 'synthetic:64,4,16'\nseeds = 1\nsettings = {{ epochs = 1, batch = 16 }}\n{text}")
    return Recipe.load("r.toml", **options).run()


TEACHER = "[teacher]\nmodel = 'tiny-3'\n"


def test_a_matrix_runs():
    found = small(
        "[plot]\n[dump]\nviews = 2\n" + TEACHER +
        "[[student]]\nmodel = 'tiny-2'\nmethod = ['st', 'none']\nfraction = [1, 0.5]\nseries = 'all'\nx = 'fraction'"
    )  # fmt: skip
    assert [row["name"] for row in found["rows"][1:]] == [
        "st, fraction 1", "st, fraction 0.5", "none, fraction 1", "none, fraction 0.5",
    ]  # fmt: skip
    sizes = {len(open_cache(path)) for path in Path("runs/r").glob("cache-*/*.h5")}
    assert sizes == {64}
    (points,) = json.loads(Path(found["points"]).read_text())
    assert sorted(point[0] for point in points["points"]) == [0.5, 0.5, 1, 1]


def test_weights_that_are_given():
    good(f"train-teacher --model tiny-3 {DATA} --epochs 1 --batch 16 --out mine {CPU}")
    top1 = json.loads(Path("mine/run.json").read_text())["result"]["top1"]
    found = small(f"{TEACHER}weights = 'mine/last.safetensors'\n[[student]]\nmodel = 'tiny-2'")
    assert found["rows"][0]["top1"] == pytest.approx(top1)
    assert not list(Path("runs/r").glob("teacher-*/*.safetensors"))
    shutil.copy("mine/last.safetensors", "copy.safetensors")
    Path("r.toml").write_text(Path("r.toml").read_text().replace("mine/last", "copy"))
    assert missing("r.toml") == {}
    good(f"train-teacher --model tiny-3 {DATA} --epochs 1 --batch 16 --seed 1 --out other {CPU}")
    shutil.copy("other/last.safetensors", "copy.safetensors")
    assert missing("r.toml") == {"teacher": 1, "cache": 1, "student": 1}


def test_a_cache_of_a_teacher_that_never_existed():
    good(f"pseudo-teacher {DATA} --views 2 -o made.h5")
    found = small("cache = 'made.h5'\n[[student]]\nmodel = 'tiny-2'\nseeds = 2")
    assert [(row["name"], "top1" in row) for row in found["rows"]] == [("teacher of made.h5", False), ("st", True)]
    assert "synthetic:64,4,16, 2 seeds (mean ± std)" in found["text"]


def test_caches_that_were_made_before():
    good(f"train-teacher --model tiny-3 {DATA} --epochs 1 --batch 16 {CPU}")
    for number in (0, 1):
        good(f"dump-logits --teacher tiny-3 {DATA} --views 2 --first-view {2 * number} -o {number}.h5 {CPU}")
    found = small(
        "cache = '0.h5'\n[[student]]\nmodel = 'tiny-2'\nmethod = ['none', 'st']\n"
        "[[student]]\nname = 'of both'\nmodel = 'tiny-2'\ncache = ['0.h5', '1.h5']"
    )
    assert [row["name"] for row in found["rows"]] == ["teacher of 0.h5", "teacher of 1.h5", "none", "st", "of both"]
    assert 0 <= found["rows"][0]["top1"] <= 1
    assert all("agreement" in row for row in found["rows"][2:])
    good(f"dump-logits --teacher tiny-3 {DATA} --views 3 -o 0.h5 {CPU} --method st,at --seed 4".replace("0.h5", "3.h5"))
    shutil.move("3.h5", "0.h5")
    assert missing("r.toml") == {"student": 3}


def test_students_of_a_part_of_the_rows_and_views_read_one_cache():
    found = small(
        f"{TEACHER}[dump]\nviews = 3\n[[student]]\nmodel = 'tiny-2'\nviews = [1, 3]\nfraction = [1, 0.5]\n"
        "[[student]]\nname = 'live'\nmodel = 'tiny-2'\nviews = 1\nfraction = 0.5\nlive = true"
    )
    (file,) = Path("runs/r").glob("cache-*/*.h5")
    top1 = {row["name"]: row["top1_all"] for row in found["rows"]}
    assert top1["live"] == top1["st, views 1, fraction 0.5"]
    good(
        f"train-student --cache {file} --student tiny-2 --views 1 --fraction 0.5 --epochs 1 --batch 16 --out one {CPU}"
    )
    (mine,) = Path("runs/r").glob("st--views-1--fraction-0.5*")
    assert Path("one/last.safetensors").read_bytes() == (mine / "last.safetensors").read_bytes()


def test_a_part_of_the_rows_of_a_file_made_before():
    good(f"pseudo-teacher {DATA} --views 2 -o made.h5")
    small("cache = 'made.h5'\n[[student]]\nmodel = 'tiny-2'\nfraction = 0.5\nviews = 1")
    (mine,) = Path("runs/r").glob("st-*")
    assert json.loads((mine / "run.json").read_text())["data"]["rows"] == 32


def test_students_who_need_no_teacher():
    found = small(
        "[[student]]\nmodel = 'tiny-2'\nmethod = ['none', 'ls']\nfraction = [1, 0.5]\n"
        "[[student]]\nname = 'made up'\nmodel = 'tiny-2'\npseudo = { accuracy = '0.9' }"
    )
    assert [len(row["top1_all"]) for row in found["rows"]] == [1] * 5
    assert not list(Path("runs/r").glob("*/*.h5"))
    good(f"train-student {DATA} --student tiny-2 --method none --fraction 0.5 --epochs 1 --batch 16 --out one {CPU}")
    (mine,) = Path("runs/r").glob("none--fraction-0.5*")
    assert Path("one/last.safetensors").read_bytes() == (mine / "last.safetensors").read_bytes()


def test_several_teachers():
    found = small(
        "[[teacher]]\nname = 'a'\nmodel = 'tiny-3'\n[[teacher]]\nname = 'b'\nmodel = 'tiny'\nfraction = 0.5\n"
        "[[dump]]\nteacher = 'a'\nviews = 2\n[[dump]]\nteacher = 'b'\nviews = 2\ncodec = 'int8'\n"
        "[[student]]\nname = 'of a'\nmodel = 'tiny-2'\ncache = 'a'\nmethod = 'st+at'\n"
        "[[student]]\nname = 'of b'\nmodel = 'tiny-2'\ncache = 'b'\nlive = [true, false]\n"
        "[[student]]\nname = 'of both'\nmodel = 'tiny-2'\ncache = ['a', 'b']"
    )
    names = ["teacher a", "teacher b", "of a", "of b, live", "of b, not live", "of both"]
    assert [row["name"] for row in found["rows"]] == names
    assert sorted(path.name for path in Path("runs/r").glob("cache-*/*")) == ["st+at.h5", "st.h5"]
    assert missing("r.toml") == {}
    of_b = next(row for row in found["rows"] if row["name"] == "of b, live")
    assert of_b["model"] == "tiny-2"


@pytest.mark.parametrize("method", ["ft", "co", "mhgd"])
def test_a_live_student_prepares_what_the_cache_was_not_made_for(method):
    live = f"[[student]]\nname = 'live'\nmodel = 'tiny-3'\nmethod = '{method}'\nlive = true\n"
    small(f"{TEACHER}[dump]\nviews = 1\n{live}[[student]]\nmodel = 'tiny-2'\n")
    (alone,) = Path("runs/r").glob("live-*/last.safetensors")
    before = alone.read_bytes()
    shutil.rmtree("runs")
    small(f"{TEACHER}[dump]\nviews = 1\nmethod = 'st+{method}'\n{live}")
    (stored,) = Path("runs/r").glob("live-*/last.safetensors")
    assert stored.read_bytes() == before


def test_seeds_by_number():
    found = small(
        f"{TEACHER}[[student]]\nmodel = 'tiny-2'\nseeds = [7, 3]\n[[student]]\nname = 'b'\nmodel = 'tiny-2'\nseed = 3"
    )
    assert len(found["rows"][1]["top1_all"]) == 2
    assert found["rows"][2]["top1_all"] == found["rows"][1]["top1_all"][1:]  # the seed 3 of both, trained once
    assert len(list(Path("runs/r").glob("*-seed*"))) == 2


@pytest.mark.parametrize("codec", ["f16", "auto"])
def test_auto_chooses_by_all_that_is_stored(codec):
    text = f"{TEACHER}[dump]\nviews = 1\ncodec = '{codec}'\n[[student]]\nmodel = 'tiny-2'\n"
    small(text)
    Path("r.toml").write_text(Path("r.toml").read_text() + "[[student]]\nmodel = 'tiny-2'\nmethod = 'rkd'")
    assert missing("r.toml") == {"cache": 1, "student": 1 if codec == "f16" else 2}


def test_cifar10_on_a_small_folder():
    for number in range(80):
        folder = Path("pictures", "train" if number < 64 else "test", "ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    text = next(path for path in PIPELINES if path.name == "cifar10.toml").read_text()
    Path("small.toml").write_text(re.sub(r"(epochs|views) = \d+", r"\1 = 1", text))
    found = good(f"run small.toml --data folder:pictures --seeds 1 --workers 0 --json {CPU}").json()
    assert [row["name"] for row in found["rows"]] == ["teacher", "none", "st", "at"]


def test_embeddings_in_a_codec_of_their_own_lie_in_one_cache():
    text = RECIPE.replace("views = 2", 'views = 2\ncodec = "f16,emb=int8"').replace(
        'method = "st:T=4"', 'method = "feat"'
    )
    Path("emb.toml").write_text(text.replace("seeds = 2", "seeds = 1"))
    good(f"run emb.toml {CPU}")
    (path,) = Path("runs/emb").glob("cache-*/*.h5")
    assert {name: codec.name for name, codec in open_cache(path).layout.codecs.items()} == {
        "logits": "f16",
        "emb": "int8",
    }
    assert missing("emb.toml") == {}
    Path("emb.toml").write_text(text.replace('method = "feat"', 'method = "st"'))
    refused("run emb.toml --dry-run", 2, "emb.toml:", "[dump], codec f16,emb=int8", "embeddings among what is stored")


def test_a_pack_of_images_in_memory_is_planned_too():
    Path("p.toml").write_text(f"pack = true\nseeds = 1\n{TEACHER}[dump]\nviews = 1\n[[student]]\nmodel = 'tiny-2'\n")
    (pack, *_) = good(f"run p.toml --workers 0 {CPU} --dry-run --json").json()["stages"]
    assert (pack["stage"], pack["bytes"]) == ("pack", 1797 * 3 * 32 * 32)


def test_a_pack_is_made_once_and_is_to_results_what_its_images_are():
    for number in range(40):
        folder = Path("pictures", "train" if number < 32 else "test", "ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    text = (
        "data = 'folder:pictures'\naugment = 'resized-crop:16'\nseeds = 1\nsettings = { epochs = 1, batch = 16 }\n"
        f"{TEACHER}[dump]\nviews = 1\n[[student]]\nmodel = 'tiny-2'\n"
    )
    Path("p.toml").write_text(f"pack = true\n{text}")
    line = f"run p.toml --workers 0 {CPU}"
    planned = good(f"{line} --dry-run --json").json()
    assert [stage["stage"] for stage in planned["stages"]] == ["pack", "teacher", "cache", "student"]
    assert good(line).err.startswith("p: packing folder:pictures\n")
    (pack,) = Path("runs/p").glob("*.kdp")
    assert planned["stages"][0]["folder"] == str(pack)
    assert planned["stages"][0]["bytes"] == pytest.approx(pack.stat().st_size, rel=0.2)
    written = pack.stat().st_mtime_ns
    good(line)
    assert pack.stat().st_mtime_ns == written
    Path("p.toml").write_text(text)
    assert missing(f"p.toml --workers 0 {CPU}") == {}
    Path("p.toml").write_text(f"pack = {{ short = 32 }}\n{text}")
    good(line)
    assert missing(f"p.toml --workers 0 {CPU}") == {}
    good(f"{line} --runs elsewhere")
    (moved,) = Path("elsewhere/p").glob("st-*")
    assert Path("runs/p", moved.name).is_dir()


NET = """
from torch import nn
def net(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""


def test_networks_of_ones_own_with_taps():
    Path("nets.py").write_text(NET)
    keys = "model = 'nets:net'\ntaps = 'emb=2'\n"
    found = small(f"[teacher]\n{keys}[[student]]\n{keys}method = 'rkd'\n", code=["nets:net"])
    assert [row["model"] for row in found["rows"]] == ["nets:net"] * 2


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_the_recipes_that_ship(path):
    loaded = Recipe.load(str(path))
    assert loaded.title
    assert loaded.settings_of(loaded.students[0], seed=3).seed == 3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a peak begin anew")
def test_the_peak_of_a_student_is_not_that_of_an_earlier_one():
    device = torch.device("cpu")
    held = bytearray(200 << 20)
    before = peak_bytes(device)
    del held
    forget_peak()
    assert peak_bytes(device) < before - (100 << 20)


def test_a_student_lets_go_of_its_cache(finished):
    write("seeds = 2", "seeds = 3")
    good("run small.toml")
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if "runs/small/cache" in line]
