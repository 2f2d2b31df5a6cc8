"""Every command as a stranger would use it, when nothing goes wrong."""

import importlib.metadata
import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from cli_cases import DATA, DUMP, SHORT, STUDENT, TEACHER, WEIGHTS, good, kdcache, refused

import kdcache as package
from kdcache import __version__
from kdcache.bench import BENCHES
from kdcache.cli import common, inspection, main, pages, study
from kdcache.train import OPTIMIZERS, SCHEDULES, Settings
from kdcache.wording import readable

pytestmark = pytest.mark.usefixtures("home")
COMMANDS = ["", *main.commands]


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_ends_in_an_example(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = good(f"{command} --help").out
    assert max(map(len, page.splitlines())) <= 80
    assert "\nExample:\n  kdcache " in page
    assert page == good(f"{command} -h").out


def test_no_short_help_is_cut_off(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in good("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("command", main.commands)
def test_every_option_is_explained(command):
    for param in main.commands[command].params:
        if isinstance(param, click.Option):
            record = param.get_help_record(click.Context(main.commands[command]))
            assert record is None or record[1], param.name


@pytest.mark.parametrize("command", [main, *main.commands.values()], ids=COMMANDS)
def test_every_example_can_be_typed(command):
    lines = [shlex.split(line, comments=True) for line in command.example.strip().splitlines()]
    for program, name, *arguments in (line for line in lines if line[0] != "eval"):
        assert program == "kdcache"
        assert command in (main, main.commands[name])
        main.commands[name].make_context(name, arguments)  # raises what does not parse


def test_version_and_no_arguments():
    lines = good("--version").out.splitlines()
    assert lines[0] == f"kdcache {__version__}"
    assert f"torch {importlib.metadata.version('torch')}" in lines
    said = kdcache("")
    assert said.code == 2
    assert "Commands:" in said.err


def test_ctrl_c_before_a_command_has_begun(monkeypatch, capsys):
    monkeypatch.setattr(click.Group, "make_context", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as end:
        main(["list"])
    assert end.value.code == 130
    assert capsys.readouterr().err.strip() == "kdcache: interrupted"


def test_completion(monkeypatch):
    monkeypatch.setenv("COMP_WORDS", "kdcache train-teacher --optimizer ada")
    monkeypatch.setenv("COMP_CWORD", "3")
    monkeypatch.setenv("_KDCACHE_COMPLETE", "bash_complete")
    assert kdcache("").out.split() == ["plain,adam", "plain,adamw"]


# The door repeats what it may not import


def test_choices_are_those_of_the_engine():
    assert (common.OPTIMIZERS, common.SCHEDULES) == (OPTIMIZERS, SCHEDULES)
    assert study.bench.params[0].type.choices == (*BENCHES, "all")


@pytest.mark.parametrize("command", ["train-teacher", "train-student"])
def test_defaults_are_those_of_the_engine(command):
    ctx = main.commands[command].make_context(command, ["--model", "tiny"] if command == "train-teacher" else [])
    assert common.settings_of(ctx.params) == Settings()


# Good runs

SHARE = r" *\d+\.\d\d %"
EPOCH = re.compile(rf"^epoch 1/1: loss [\d.]+, train top1 {SHARE}, top1 {SHARE}, [\d,]+ images/s$", re.MULTILINE)


def test_train_teacher(home):
    said = good(f"{TEACHER} --json")
    found = said.json()
    assert EPOCH.search(said.err)
    assert found["model"] == "tiny-3"
    assert found["data"] == "synthetic:64,4,16"
    assert 0 <= found["top1"] <= 1
    assert Path(found["weights"]).is_file()


def test_a_second_run_keeps_the_first(tmp_path):
    out = tmp_path / "run"
    good(f"{TEACHER} --out {out}")
    good(f"{TEACHER} --out {out} --seed 1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run~1"]


def test_a_student_s_training_says_on_how_many_images_it_is_evaluated(in_tmp):
    said = good(f"{STUDENT} --data synthetic:64,4,16 --method none")
    assert "\nevaluation: 12 images of synthetic:64,4,16, as they are: 16x16\n" in said.err


def test_label_smoothing_is_trained_with(tmp_path):
    good(f"{TEACHER} --label-smoothing 0.1 --out {tmp_path}/run")
    assert "ls" in json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["loss"]


def test_dump_says_what_it_made(tmp_path):
    said = good(f"{DUMP} -o {tmp_path}/x.h5")
    size = readable(Path(f"{tmp_path}/x.h5").stat().st_size)
    expected = f"{tmp_path}/x.h5: 64 rows, 2 views, {size}; logits f16, 16 bytes a row with its seed; teacher right in "
    assert said.out.startswith(expected)
    assert good(f"{DUMP} -o {tmp_path}/x.h5 --json").json()["complete"]


@pytest.mark.parametrize("more", ["", "--live", "--live --teacher tiny-3", "--method none", "--method logits"])
def test_train_student(more, tmp_path):
    found = good(f"{STUDENT} --cache a.h5 --out {tmp_path}/run --json {more}").json()
    assert found.keys() >= {"student", "method", "seed", "epochs", "top1", "agreement", "seconds", "weights", "run"}


def test_train_student_without_a_cache(tmp_path):
    good(f"{STUDENT} {DATA} --method none --out {tmp_path}/plain")
    good(f"{STUDENT} {DATA} --live --teacher tiny-3 --out {tmp_path}/live")


def test_verify():
    said = good("verify a.h5 --teacher tiny-3")
    assert all(line.startswith("ok    ") for line in said.out.splitlines())
    found = good("verify a.h5 --no-data --json").json()
    assert found["ok"] is True
    assert all(check.keys() == {"name", "ok", "detail"} for check in found["checks"])


def test_verify_names_what_is_wrong(tmp_path):
    damaged = tmp_path / "damaged.h5"
    data = bytearray(Path("a.h5").read_bytes())
    from kdcache.cache import open_cache

    data[open_cache("a.h5").layout.places["knowledge/logits"].offset] ^= 1
    damaged.write_bytes(data)
    said = kdcache(f"verify {damaged} --json")
    assert said.code == 1
    assert [c["name"] for c in said.json()["checks"] if not c["ok"]] == ["knowledge/logits"]
    assert "FAIL  knowledge/logits:   1 of 2 blocks" in kdcache(f"verify {damaged}").out


def test_verify_of_no_cache_at_all_is_still_json(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    said = kdcache(f"verify {tmp_path}/x.h5 --json")
    assert said.code == 1
    assert [(c["name"], c["ok"]) for c in said.json()["checks"]] == [("header", False)]


def test_show(tmp_path):
    said = good(f"show a.h5 -o {tmp_path}/sheet.png --rows 2 --views 1")
    assert said.out == f"{tmp_path}/sheet.png\n"
    assert Path(said.out.strip()).read_bytes().startswith(b"\x89PNG")


def test_evaluate_knows_the_data_of_its_run():
    found = good(f"evaluate {WEIGHTS} --json").json()
    assert (found["model"], found["rows"]) == ("tiny-3", 12)
    assert found["top1"] == good(f"evaluate {WEIGHTS} {DATA} --json").json()["top1"]
    assert good(f"evaluate {WEIGHTS} --cache a.h5 --json").json()["agreement"] == 1


def test_evaluate_takes_the_view_of_its_run(home, tmp_path):
    shutil.copytree(Path(WEIGHTS).parent, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["view"] = {"view": "resized-crop", "size": [8, 8]}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    small = good(f"evaluate {tmp_path}/run/last.safetensors --json").json()
    assert small["nll"] != good(f"evaluate {WEIGHTS} --json").json()["nll"]


@pytest.mark.parametrize("what", ["sources", "views", "codecs", "methods", "models"])
def test_list(what):
    found, text = good(f"list {what} --json").json(), good(f"list {what}").out
    assert all(f"  {name} " in text for table in found.values() for name in table)


def test_the_list_of_methods_fits_a_terminal():
    lines = good("list methods").out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(len(line) > 90 for line in lines)


def test_lists_for_scripts_hold_numbers():
    methods = good("list methods --json").json()["methods"]
    assert methods["st"]["bytes"] == 20
    assert methods["st"]["stores"] == ["logits"]
    assert methods["st"]["defaults"]["T"] == 4
    assert "zoo" in methods["st"]["variants"]
    assert type(good("list models --json").json()["models"]["resnet20"]["weights"]) is int


NETWORKS = """
from torch import nn

def plain(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

def wrong(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))

def silent(classes):
    return nn.Conv2d(3, classes, 1)
"""


def test_methods_for_a_network_of_ones_own(in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "listed_networks.py").write_text(NETWORKS)
    for pair in ("--teacher listed_networks:plain", "--student listed_networks:plain"):
        found = good(f"list methods {pair} --json").json()["methods"]
        assert (found["st"]["bytes"], found["st"]["refused"]) == (20, "")
        assert found["at"]["refused"]
        assert "not for this pair" in good(f"list methods {pair}").out
    refused("list methods --teacher listed_networks:wrong", 1, "a network for images of [3, 32, 32]")
    refused("list methods --teacher listed_networks:silent", 1, "logits of shape [2, 10]")


def test_list_of_everything():
    text = good("list").out
    assert all(f"{what}:\n" in text for what in inspection.TABLES)


def test_plan_of_images_that_are_elsewhere():
    asked = "plan --teacher tiny-3 --batch 2 --views 3 --epochs 3 --device cpu --json --augment centre:16"
    found = good(f"{asked} --like imagenet21k --ranks 8").json()
    assert (found["rows"], found["views"]) == (14_197_122, 3)
    assert found["bytes"] == 14_197_122 * (3 * (2 * 21_841 + 8) + 12)
    sizes = {one["codec"]: one["bytes_per_row"] for one in found["codecs"]}
    assert (sizes["f32"], sizes["f16"]) == (4 * 21_841, 2 * 21_841)
    assert sizes["topk:16"] < sizes["topk:64"] < sizes["logp8"]
    assert {one["codec"]: one["bytes"] for one in found["codecs"]}["f16"] == found["bytes"]
    assert found["dump_seconds"] == pytest.approx(3 * 14_197_122 / (8 * found["teacher_images_per_second"]))
    assert found["live_seconds"] == found["dump_seconds"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("--like imagenet21", ["--like", "did you mean imagenet21k?"]),
        ("--like 1000", ["ROWS,CLASSES"]),
        ("--like 0,10", ["ROWS,CLASSES"]),
        ("--like 10,1,32", ["two or more classes"]),
        (f"--like 10,10 {DATA}", ["--like", "no --data beside it"]),
        ("--like 10,10 --fraction 0.5", ["no --fraction beside it"]),
    ],
)
def test_plan_refuses_what_is_like_nothing(asked, words):
    refused(f"plan --teacher tiny-3 {asked}", 2, *words)


def test_plan_and_soft_labels(tmp_path):
    good(f"plan --teacher tiny-3 {DATA} --json").json()
    assert good(f"pseudo-teacher --accuracy 0.9 --views 2 {DATA} -o {tmp_path}/p.h5 --json").json()["views"] == 2
    page = good(f"inspect {tmp_path}/p.h5").out
    assert "teacher     pseudo, accuracy 0.9, right in 90." in page
    assert "forward" not in page
    accuracy = "--accuracy 0.5,0.6,0.7,1>0.9,0.9,0.8,1"
    good(f"pseudo-teacher {accuracy} --spread 0.5 --errors per-view {DATA} -o {tmp_path}/q.h5")
    good(f"pseudo-teacher --accuracy 0.6>0.9 --confidence 0.5,0.8 {DATA} -o {tmp_path}/r.h5")
    asked = "schedule (accuracy 0.6 to 0.9, shape linear, views 10), confidence 0.5,0.8"
    assert f"teacher     pseudo, {asked}, right in " in good(f"inspect {tmp_path}/r.h5").out
    asked = "schedule (accuracy 0.5,0.6,0.7,1.0 to 0.9,0.9,0.8,1.0, shape linear, views 10)"
    assert (
        f"teacher     pseudo, {asked}, errors per-view, spread 0.5, right in " in good(f"inspect {tmp_path}/q.h5").out
    )


def test_a_training_says_what_it_minimises():
    said = good(f"{STUDENT} --cache a.h5 --method st:0.5:T=2:ce=0.3 --out ./said --json")
    assert said.err.startswith("teacher: a.h5, right in ")
    assert "\nloss: 0.3 ce + 0.5 st (T=2)\n" in said.err
    assert said.json()["method"] == "st:0.5:T=2:ce=0.3"


# Inspect


def test_inspect_for_scripts():
    found = good("inspect a.h5 --json").json()
    whole = {"rows": 64, "views": 2, "classes": 4, "complete": True, "eval_rows": 12, "seed_bytes_per_row": 8}
    assert found.items() >= whole.items()
    assert found["bytes"] == Path("a.h5").stat().st_size
    assert found["knowledge"] == {"logits": {"codec": "f16", "shape": [4], "label": "f16", "bytes_per_row": 8}}


def test_inspect_for_people():
    page = good("inspect a.h5").out.splitlines()
    assert page[0].startswith("a.h5: ")
    assert page[0].endswith(", complete")
    assert "images      synthetic:64,4,16 train: 64 rows" in page
    assert "views       2 of crop-flip 16x16, flip, pad 4" in page
    assert "its loss    0.1 ce + 0.9 st (T=4)" in page
    assert "logits     f16         4            8      1.02 kB" in page
    assert "together                           16      2.05 kB" in page


def test_inspect_shows_what_the_other_codecs_would_have_cost(tmp_path):
    good(f"{DUMP} --codec auto --method logits+at -o {tmp_path}/auto.h5")
    found = good(f"inspect {tmp_path}/auto.h5 --json").json()
    page = good(f"inspect {tmp_path}/auto.h5").out
    table = page.partition("logits, as measured before the dump:")[2].splitlines()[1:]
    assert table[0].split("  ")[-1].strip() == "KL at T=4"
    assert len(table) == 1 + len(found["measured"]["logits"])
    assert [line.split()[1] for line in table if line.startswith(">")] == [found["knowledge"]["logits"]["codec"]]
    assert "not taken: loses the level of a row's logits" in page
    rows = {line.split()[0]: line.split()[3] for line in page.splitlines() if line.startswith("at.")}
    assert rows == {"at.f1": "32", "at.f2": "32", "at.f3": "8"}


def test_inspect_of_other_views():
    found = package.summary("a.h5")
    pipeline = {"transform": {"transforms": [{"__class_fullname__": "albumentations.HorizontalFlip"}]}}
    found["view"] = {"view": "albumentations", "size": [16, 16], "pipeline": pipeline}
    found["source"]["fraction"] = 0.5
    page = pages.cache_page(found)
    assert "views       2 of albumentations 16x16, HorizontalFlip\n" in page
    assert "train, 0.5 of it: 64 rows\n" in page
    found |= {"views": 162, "view": {"view": "crop", "size": [8, 8], "pad": 4, "flip": False, "enumerated": True}}
    assert "views       all 162 of crop 8x8, pad 4\n" in pages.cache_page(found)
    found["class_names"] = [f"class{c}" for c in range(100)]
    assert len(next(line for line in pages.cache_page(found).splitlines() if line.startswith("classes"))) < 80


def test_inspect_refuses_a_header_that_was_changed(tmp_path):
    (tmp_path / "x.h5").write_bytes(Path("a.h5").read_bytes().replace(b'"method": "st"', b'"method": "xx"'))
    refused(f"inspect {tmp_path}/x.h5", 1, "seal")


def test_sizes():
    sizes = (0, 999, 1000, 1_234_567, 12_345_678_901, 10**12)
    assert [readable(size) for size in sizes] == ["0 B", "999 B", "1.00 kB", "1.23 MB", "12.35 GB", "1.00 TB"]


# One JSON object, and nothing else, on standard output


def test_what_a_factory_prints_goes_beside_the_json(tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text(
        "from torch import nn\n"
        "def net(classes):\n"
        "    print('hello')\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    said = good(f"train-teacher --model chatty:net {DATA} {SHORT} --json")
    assert said.json()["model"] == "chatty:net"
    assert "hello" in said.err
    assert "hello" in good(f"train-teacher --model chatty:net {DATA} {SHORT}").out


def test_json_has_no_nan():
    assert common.spelled({"a": [float("nan"), 1.0], 2: (float("inf"),)}) == {"a": [None, 1.0], "2": [None]}
