"""Recipes: a small one runs to its end and goes on where it was; a wrong one is refused before anything is trained."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from cli_cases import CPU, good, kdcache, refused

from kdcache.recipe import Recipe
from kdcache.recipe.keys import KEYS
from kdcache.train import Settings

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))
RECIPE = """
title = "A small one"
data = "synthetic:64,4,16"
seeds = 2
show = true
[settings]
epochs = 1
batch = 16
[teacher]
model = "tiny-3"
[dump]
views = 2
[plot]
x = "epochs"
[[student]]
name = "plain"
method = "none"
model = "tiny-2"
series = "plain"
[[student]]
name = "st/4 a"
method = "st:T=4"
model = "tiny-2"
series = "st"
x = 1
[[student]]
method = "at"
model = "tiny-2"
live = true
[[student]]
name = "pseudo"
model = "tiny-2"
pseudo = { accuracy = "0.9" }
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes the recipe with parts of it replaced."""
    monkeypatch.chdir(tmp_path)

    def write(old: str = "", new: str = "", name: str = "small.toml") -> str:
        assert old in RECIPE
        Path(name).write_text(RECIPE.replace(old, new, 1))
        return name

    return write


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a recipe that was run to its end."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good("run small.toml")
    return folder


def test_the_table(finished, monkeypatch):
    monkeypatch.chdir(finished)
    said = good("run small.toml --json")
    found = said.json()
    assert said.err == ""
    assert [row["name"] for row in found["rows"]] == ["teacher", "plain", "st/4 a", "at", "pseudo"]
    assert [len(row["top1_all"]) for row in found["rows"]] == [1, 2, 2, 2, 2]
    assert all(0 <= row["top1"] <= 1 for row in found["rows"])
    assert Path(found["sheet"]).is_file()
    assert Path(found["plot"]).is_file()
    assert [one["name"] for one in json.loads(Path(found["points"]).read_text())] == ["plain", "st"]
    assert json.loads(Path("runs/small/table.json").read_text())["rows"] == found["rows"]
    text = good("run small.toml").out
    assert all(name in text for name in ("plain", "st/4 a", "accuracy %", "runs/small/sheet.png"))


def test_without_matplotlib_the_points_are_kept(finished, monkeypatch):
    monkeypatch.chdir(finished)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = good("run small.toml --json").json()
    assert "plot" not in found
    assert Path(found["points"]).is_file()
    assert "pip install 'kdcache[plot]'" in good("run small.toml").out


def test_a_second_run_trains_nothing(finished, monkeypatch):
    monkeypatch.chdir(finished)
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    assert len(before) == 3 * (1 + 4 * 2)  # last, best and state of the teacher and of each student
    good("run small.toml")
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")} == before


def test_more_seeds_are_added(finished, monkeypatch):
    monkeypatch.chdir(finished)
    before = Path("runs/small/plain-seed0/metrics.jsonl").read_text()
    found = good("run small.toml --seeds 3 --json").json()
    assert len(found["rows"][1]["top1_all"]) == 3
    assert Path("runs/small/plain-seed0/metrics.jsonl").read_text() == before
    assert [path.name for path in Path("runs").iterdir()] == ["small"]


def test_another_recipe_of_that_name_moves_the_first_aside(recipe):
    good(f"run {recipe()} --seeds 1")
    good(f"run {recipe('views = 2', 'views = 3')} --seeds 1")
    good(f"run {recipe('views = 2', 'views = 3')} --seeds 1 --data synthetic:48,4,16")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["small", "small~1", "small~2"]


@pytest.mark.parametrize("after", [3, 7, 14])
def test_interrupted(after, recipe, monkeypatch):
    whole = good(f"run {recipe()} --runs whole --json {CPU}").json()
    seen = []

    def bar(items, total=None, desc="", **_):
        for item in items:
            seen.append(desc)
            if len(seen) == after:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr("kdcache.cli.study.bar", bar)
        assert kdcache(f"run small.toml {CPU}").code == 130
    again = good(f"run small.toml --json {CPU}").json()
    assert [row.get("top1_all") for row in again["rows"]] == [row.get("top1_all") for row in whole["rows"]]


WRONG = [
    ("epochs = 1", 'epochs = "1"', "[teacher], epochs", "'1'"),
    ("epochs = 1", "epochs = 0", "[teacher], epochs"),
    ("epochs = 1", "epochs = nan", "[teacher], epochs"),
    ("epochs = 1", "epoch = 1", "[settings]", "did you mean epochs?"),
    ("epochs = 1", "epochs = 1\nwarmup = 4", "warmup", "at most all 1 epochs"),
    ("batch = 16", 'batch = 16\noptimizer = "adm"', "optimizer"),
    ('model = "tiny-3"', 'model = "resnet9"', "[teacher], model", "did you mean resnet8?"),
    ('model = "tiny-3"', "model = 3", "[teacher] model", "a text in quotes"),
    ("views = 2", "views = 0", "[dump], views"),
    ("views = 2", 'views = "2"', "[dump], views"),
    ("views = 2", 'views = 2\ncodec = "f17"', "[dump], codec"),
    ("views = 2", "views = 2\nbatch = 0", "[dump]", "batch 0"),
    ("views = 2", 'views = 2\nmethod = "stt"', "[dump]", "did you mean st?"),
    ("views = 2\n", 'views = 2\nmethod = "logits+at"\ncodec = "logp8"\n', "small.toml, [dump], codec logp8"),
    ("views = 2", 'views = 2\ncodec = "topk:9"', "[dump]", "9 of 4"),
    ('method = "st:T=4"', 'method = "stt"', "[[student]] st/4 a", "did you mean st?"),
    ('method = "st:T=4"', 'method = "at"\nlive = 1', "[[student]] live", "true or false"),
    ('name = "pseudo"', 'name = "plain"', "[[student]] plain, name"),
    ('name = "pseudo"', 'name = "pseudo"\nlive = true', "live"),
    ('accuracy = "0.9"', "accuracy = 0.9", "pseudo accuracy", "a text in quotes"),
    ('accuracy = "0.9"', 'accuracy = "1.9"', "[[student]] pseudo, accuracy"),
    ('accuracy = "0.9"', 'acuracy = "0.9"', "did you mean accuracy?"),
    ("seeds = 2", "seeds = 0", "seeds"),
    ("seeds = 2", "seeds = true", "seeds", "a whole number"),
    ('title = "A small one"', "title =", "a TOML file"),
    ('data = "synthetic:64,4,16"', 'data = "digit"', "small.toml, data", "did you mean digits?"),
    ("seeds = 2", "seeds = 2\nfraction = 3", "small.toml, fraction"),
    ("seeds = 2", 'seeds = 2\naugment = "crop-flp"', "small.toml, augment", "did you mean crop-flip?"),
    ("[teacher]", "[teachers]", "did you mean teacher?"),
    ("[teacher]\n", "", "[settings]", "model"),
    ('series = "plain"', 'serie = "plain"', "did you mean series?"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[1].replace("\n", ", "))
def test_wrong_recipes(case, recipe):
    old, new, *words = case
    refused(f"run {recipe(old, new)}", 2, "small.toml", *words)
    assert not Path("runs").exists()


def test_what_the_cache_would_lack(recipe):
    recipe("live = true", "")
    text = Path("small.toml").read_text().replace("views = 2", 'views = 2\nmethod = "st"')
    Path("small.toml").write_text(text)
    refused("run small.toml", 2, "[[student]] at, method", "at.f1 in the cache", "leave method out of [dump]")


def test_a_teacher_without_taps(recipe):
    Path("bare.py").write_text(
        "from torch import nn\n"
        "def net(classes): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))\n"
    )
    refused(f"run {recipe('tiny-3', 'bare:net')} --code bare:net", 2, "[[student]] at", "of the teacher, found logits")
    assert not Path("runs").exists()


def test_files_that_are_no_recipes(recipe, tmp_path):
    refused("run none.toml", 2, "none.toml", "pipelines/")
    refused(f"run {tmp_path}", 2, "a recipe")
    Path("list.toml").write_text("student = [1]\n[teacher]\nmodel = 'tiny'")
    refused("run list.toml", 2, "[[student]]", "a table")
    refused(f"run {recipe()} --seeds 0", 2, "--seeds")
    refused(f"run {recipe()} --data nope", 2, "data")


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_the_recipes_that_ship(path):
    loaded = Recipe.load(str(path))
    assert loaded.title
    assert loaded.settings_of(loaded.student[0], seed=3).seed == 3


def test_every_setting_can_be_said():
    assert KEYS["settings"].keys() == Settings.__dataclass_fields__.keys()
