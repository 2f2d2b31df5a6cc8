"""A wrong recipe is refused before anything is made, with the line that is wrong."""

import re
import tomllib
from pathlib import Path

import pytest
from cli_cases import DATA, good, refused
from recipe_cases import RECIPE, write

from kdcache.errors import KdcacheError
from kdcache.jobs.shipped import located
from kdcache.recipe import Recipe
from kdcache.recipe.lines import Lines

TEACHER = "[teacher]\nmodel = 'tiny-3'\n"

WRONG = [
    ("epochs = 1", 'epochs = "1"', "[settings], epochs", "'1'"),
    ("epochs = 1", "epochs = 0", "[settings], epochs"),
    ("epochs = 1", "epochs = nan", "[settings], epochs"),
    ("epochs = 1", "epoch = 1", "[settings]", "did you mean epochs?"),
    ("epochs = 1", "epochs = 1\nwarmup = 4", "[settings], warmup", "at most all 1 epochs"),
    ("batch = 16", 'batch = 16\noptimizer = "adm"', "[settings], optimizer", "did you mean adam?"),
    ('model = "tiny-3"', 'model = "resnet9"', "[teacher], model", "did you mean resnet8?"),
    ('model = "tiny-3"', 'model = "wrn-10-999"', "[teacher], model", "of memory here"),
    ('model = "tiny-3"', 'model = "tiny-3"\npublished = 101', "[teacher], published", "to 100"),
    ('method = "st:T=4"', 'method = "st"\npublished = { at = 92.1 }', "[[student]], published", "one of at"),
    ('method = "st:T=4"', 'method = "st"\npublished = "92"', "[[student]] published", "a number, or a table"),
    ('method = "st:T=4"', 'method = "st"\nsource = "a paper"', "[[student]] st/4 a, source", "add published"),
    ('model = "tiny-3"', "model = 3", "[teacher] model", "a text in quotes"),
    ('model = "tiny-3"', 'model = "tiny-3"\nlr = [0.1, 0.2]', "[teacher], lr", "a number above 0"),
    ('model = "tiny-3"', 'model = "tiny-3"\nlabel_smoothing = 1', "[teacher], label_smoothing", "below 1"),
    ('model = "tiny-3"', 'model = "tiny-3"\nmean = [0.5, 0.5, 0.5]', "[teacher], std", "give both `mean` and `std`"),
    ('model = "tiny-3"', 'model = "tiny-3"\nweights = "none.pt"', "[teacher], weights", "no file none.pt"),
    (
        'model = "tiny-3"',
        'model = "tiny-3"\nweights = "small.toml"\nepochs = 3',
        "[teacher], epochs",
        "whose weights are given",
    ),
    ("views = 2", "views = 0", "[dump], views"),
    ("views = 2", 'views = "2"', "[dump], views"),
    ("views = 2", 'views = 2\ncodec = "f17"', "[dump], codec"),
    ("views = 2", "views = 2\nbatch = 0", "[dump], batch", "found 0"),
    ("views = 2", 'views = 2\ndtype = "f16"', "[dump], dtype", "did you mean bf16?"),
    ("views = 2", 'views = 2\nmethod = "stt"', "[dump]", "did you mean st?"),
    ("views = 2", 'views = 2\nteacher = "tiny"', "[dump], teacher", "the name of a teacher: tiny-3"),
    ("views = 2\n", 'views = 2\nmethod = "logits+at"\ncodec = "logp8"\n', "[dump], codec logp8"),
    ("views = 2", 'views = 2\ncodec = "topk:9"', "[dump]", "9 of 4"),
    ('method = "st:T=4"', 'method = "stt"', "[[student]] st/4 a", "did you mean st?"),
    ('method = "st:T=4"', 'method = ["none", "stt"]', "[[student]] st/4 a, stt, method", "did you mean st?"),
    ('method = "st:T=4"', 'method = ["st", 3]', "[[student]] method", "a text in quotes"),
    ('method = "st:T=4"', 'method = "st:T=4"\nT = 2', "[[student]]", "one temperature"),
    ('method = "st:T=4"', 'method = "at"\nT = 2', "[[student]]", "a method with a temperature"),
    ('method = "st:T=4"', 'method = "at"\nlive = 1', "[[student]] live", "true or false"),
    ('method = "st:T=4"', 'method = "st"\ncache = "wide"', "[[student]] st/4 a, cache", "tiny-3, or a file"),
    ('method = "st:T=4"', 'method = "st"\nfraction = [1, 0]', "[[student]] st/4 a, fraction 0, fraction"),
    ('method = "st:T=4"', 'method = "st"\nviews = [1, 3]', "[[student]] st/4 a, views 3, views", "1 to 2, found 3"),
    ('method = "st:T=4"', 'method = "st"\nseeds = [1, 1]', "[[student]] st/4 a, seeds", "write each of them once"),
    ('method = "st:T=4"', f"lr = {[0.1] * 200}\nwarmup = {[0.5] * 200}", "at most 10000 combinations"),
    ("x = 1", 'x = "lr"', "[[student]], x", "a key of this student with one"),
    ('name = "pseudo"', 'name = "plain"', "[[student]] plain, name"),
    ('name = "pseudo"', 'name = "pseudo"\nlive = true', "live"),
    ('accuracy = "0.9"', "accuracy = 0.9", "pseudo accuracy", "a text in quotes"),
    ('accuracy = "0.9"', 'accuracy = "1.9"', "[[student]] pseudo, accuracy"),
    ('accuracy = "0.9"', 'acuracy = "0.9"', "did you mean accuracy?"),
    ('method = "st:T=4"', 'method = "at"\nmix = "labels"', "[[student]] st/4 a", "means nothing when mixed"),
    ('name = "pseudo"', 'name = "pseudo"\nmethod = "at"', "[[student]] pseudo", "a made-up teacher has"),
    ("seeds = 2", "seeds = 0", "seeds"),
    ("seeds = 2", "seeds = true", "seeds", "a whole number"),
    ("seeds = 2", 'seeds = 2\ncache = "small.toml"', "no [dump] beside cache"),
    ('data = "synthetic:64,4,16"', 'data = "digit"', "data", "did you mean digits?"),
    ("seeds = 2", "seeds = 2\nfraction = 3", "fraction"),
    ("seeds = 2", "seeds = 2\npack = 3", "pack", "true, or a table with short"),
    ("seeds = 2", "seeds = 2\npack = { shrt = 3 }", "[pack]", "did you mean short?"),
    ("seeds = 2", "seeds = 2\npack = { short = 0 }", "short", "from 1"),
    ("seeds = 2", 'seeds = 2\naugment = "crop-flp"', "augment", "did you mean crop-flip?"),
    ("[teacher]", "[teachers]", "did you mean teacher?"),
    ('series = "plain"', 'serie = "plain"', "did you mean series?"),
]
TABLES = {"[[student]]", "[dump]", "[teacher]"}  # blamed where no single key is wrong


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[1][:60].replace("\n", ", "))
def test_wrong_recipes(case):
    old, new, *words = case
    refused(f"run {write(old, new)}", 2, "small.toml:", *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[1][:60].replace("\n", ", "))
def test_the_line_is_the_one_that_was_changed(case):
    with pytest.raises(KdcacheError) as caught:
        Recipe.load(write(*case[:2])).plan()
    blamed = int(re.search(r"small\.toml:(\d+)", str(caught.value))[1])
    first = RECIPE[: RECIPE.index(case[0])].count("\n") + 1
    lines = Path("small.toml").read_text().splitlines()
    assert first <= blamed <= first + case[1].count("\n") or lines[blamed - 1] in TABLES, str(caught.value)


TWO = "[[teacher]]\nname = 'a'\nmodel = 'tiny-3'\n[[teacher]]\nname = 'b'\nmodel = 'tiny-2'\n"
DUMPS = "[[dump]]\nteacher = 'a'\nviews = 2\n[[dump]]\nteacher = 'b'\nviews = {}\n[[student]]\ncache = ['a', 'b']\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (TWO + DUMPS.format(2) + "method = 'at'", "which are joined"),
        (TWO + DUMPS.format(2) + "method = 'logits'", "a mean of probabilities loses"),
        (TWO + DUMPS.format(2) + "live = true", "one teacher"),
        (TWO + DUMPS.format(3), "on the same views"),
        (f"{TEACHER}[[dump]]\nname = 'x'\n[[dump]]\nname = 'y'\n[[student]]\ncache = ['x', 'y']", "the same seed"),
        (f"{TEACHER}[dump]\nviews = 1\n[[student]]\nmethod = 'mlkd'", "2 views of each image"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before_a_teacher_is_trained(text, word):
    Path("r.toml").write_text(f"data = 'synthetic:64,4,16'\n{text}\nmodel = 'tiny-2'\n")
    refused("run r.toml", 2, "r.toml:", word)
    assert not Path("runs").exists()


def test_the_line_of_each_table_and_key():
    text = (
        'title = "a # no comment [x]" # one\nplot.x = """\n[y]\n"""\nstudent = [\n  { name = "a", lr = 1 },\n'
        "  # none\n  { \"name\" = 'b', betas = [0.9,\n 0.99] },\n]\n[[dump]]\n[[dump]]\nviews = 2\n[teacher]\n"
    )
    tomllib.loads(text)
    lines = Lines("r.toml", text)
    places = {
        ("title",): 1, ("plot", "x"): 2, ("student",): 5, ("student", 0, "lr"): 6, ("student", 1, "name"): 8,
        ("student", 1, "betas"): 8, ("student", 1, "epochs"): 8, ("dump", 0, "views"): 11, ("dump", 1, "views"): 13,
        ("teacher", "model"): 14,
    }  # fmt: skip
    assert {path: lines.at(path) for path in places} == {path: f"r.toml:{line}" for path, line in places.items()}
    assert lines.at(("settings", "lr")) == "r.toml"


def test_a_student_who_asks_and_nobody_who_answers():
    Path("r.toml").write_text('[[student]]\nmodel = "tiny-2"\nmethod = ["none", "st"]\n')
    refused("run r.toml", 2, "r.toml:3, [[student]] st, method", "[teacher] with a model, or cache", 'method = "none"')


def test_what_the_cache_would_lack():
    write("live = true", "")
    text = Path("small.toml").read_text().replace("views = 2", 'views = 2\nmethod = "st"')
    Path("small.toml").write_text(text)
    refused("run small.toml", 2, "[[student]] at, method", "at.f1 in the cache", "leave method out of [dump]")


def test_a_teacher_without_taps():
    Path("bare.py").write_text(
        "from torch import nn\n"
        "def net(classes): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))\n"
    )
    refused(f"run {write('tiny-3', 'bare:net')} --code bare:net", 2, "[[student]] at", "of the teacher, found logits")
    assert not Path("runs").exists()


def test_several_caches_and_a_student_that_names_none():
    write('[teacher]\nmodel = "tiny-3"\n[dump]', '[[teacher]]\nmodel = "tiny-3"\n[[teacher]]\nmodel = "tiny"\n[[dump]]')
    refused("run small.toml", 2, "small.toml:13, [[dump]], teacher", "the name of a teacher: tiny-3, tiny, found none")
    Path("small.toml").write_text(Path("small.toml").read_text().replace("[[dump]]\nviews = 2\n", ""))
    refused("run small.toml", 2, "[[student]] plain, cache", 'write cache = "tiny-3"')
    Path("small.toml").write_text(Path("small.toml").read_text().replace('"tiny"', '"tiny-3"'))
    refused("run small.toml", 2, "[[teacher]], name", "a name of its own for each teacher")


def test_a_file_that_was_made_before():
    good(f"pseudo-teacher {DATA} --views 2 -o made.h5")
    write("[dump]\nviews = 2\n", "")
    text = Path("small.toml").read_text().replace("seeds = 2", 'seeds = 2\ncache = "made.h5"')
    Path("small.toml").write_text(text.replace('method = "none"', 'method = "rkd"'))
    refused("run small.toml", 2, "[[student]] plain, method", "emb of the teacher")
    Path("small.toml").write_text(text.replace('[teacher]\nmodel = "tiny-3"\n', ""))
    refused("run small.toml", 2, "[[student]] at, live", "one [teacher]")


def test_files_that_are_no_recipes(tmp_path):
    refused("run none.toml", 2, "none.toml", "kdcache list recipes")
    refused("run dmeo", 2, "did you mean demo?")
    refused(f"run {tmp_path}", 2, "a recipe")
    Path("list.toml").write_text("student = [1]\n[teacher]\nmodel = 'tiny'")
    refused("run list.toml", 2, "list.toml:1, [[student]]", "a table")
    refused(f"run {write()} --seeds 0", 2, "--seeds")
    refused(f"run {write()} --data nope", 2, "small.toml, data: expected")
    refused(f"run {write('title =', 'title')}", 2, "a TOML file", "line 2")
    refused(f"run {write('[teacher]', '')}", 2, "small.toml:10, [settings]", "keys out of", "model")
    refused(f"run {write('model =', 'name =')}", 2, "small.toml:9, [teacher], model", "the name of a network")


def test_a_recipe_is_found_by_its_name_beside_a_folder_of_that_name(in_tmp):
    Path("demo").mkdir()
    assert located("demo").endswith("demo.toml")
    Path("cost").write_text("seeds = 1")
    assert located("cost") == "cost"
