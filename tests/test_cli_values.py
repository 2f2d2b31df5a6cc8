"""Command lines that cannot be meant: one line that says where, what was expected, what was found, what to do."""

from pathlib import Path

import pytest
import torch
from cli_cases import DATA, DUMP, STUDENT, TEACHER, WEIGHTS, good, kdcache, refused

from kdcache.cli import frame

pytestmark = pytest.mark.usefixtures("home")


# The command line itself

COMMAND_LINES = [
    ("frobnicate", "'frobnicate'", "see `kdcache --help`"),
    ("train-techer", "did you mean train-teacher"),
    ("--frobnicate", "--frobnicate"),
    ("train-teacher", "expected --model, found none", "see `kdcache train-teacher --help`"),
    ("inspect", "expected FILE"),
    ("train-teacher --modle tiny", "did you mean --model?"),
    ("list modls", "did you mean models?"),
    ("bench trian", "did you mean train?"),
]


@pytest.mark.parametrize("case", COMMAND_LINES, ids=lambda case: case[0])
def test_the_command_line(case):
    refused(case[0], 2, *case[1:])


@pytest.mark.parametrize("line", [f"{TEACHER} extra", f"{TEACHER} --epochs", f"{TEACHER} --json=3"])
def test_the_rest_of_the_command_line(line):
    said = kdcache(line)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("kdcache: train-teacher: ")
    assert said.err.endswith("; see `kdcache train-teacher --help`\n")


# Values, refused before anything heavy is imported

VALUES = {
    "--epochs": "-1 0 x 1.5 nan",
    "--batch": "0 1 -5",
    "--lr": "nan inf 0 -1 x",
    "--momentum": "1 -0.1 nan",
    "--weight-decay": "-1 nan inf",
    "--warmup": "-1 nan",
    "--milestones": "a 2,3 0.7,0.5 0 '' 0.5,",
    "--gamma": "0 nan -1",
    "--clip": "-1 nan",
    "--label-smoothing": "1 -0.1 nan",
    "--fraction": "0 2 nan -0.5",
    "--seed": "-1 99999999999999999999 0.5",
    "--workers": "-1 x",
    "--optimizer": "adm",
    "--schedule": "cosin",
    "--dtype": "f64",
    "--out": "'' . .. a.h5",
    "--runs": "'' a.h5",
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in VALUES.items() for v in values.split(" ")])
def test_values(option, value):
    refused(f"{TEACHER} {option} {value}", 2, option)


def test_betas():
    refused(f"{TEACHER} --betas 0.9 1", 2, "--betas")


@pytest.mark.parametrize("views", ["0", "-1", "x", "1.5", "''"])
def test_views(views):
    refused(f"{DUMP} --views {views} -o no.h5", 2, "--views", "or all")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "/2", "a/b", "-1/2", "1/2/3", "''"])
def test_shards(shard):
    refused(f"{DUMP} --shard {shard} -o no.h5", 2, "--shard", "2/4")


@pytest.mark.parametrize("views", ["", "x", "3-1", "1-", "-1", "1-2-3", "0,0", "0-5,5", "1.5", "9999999"])
def test_numbers_of_views(views):
    refused(f"prune a.h5 -o no.h5 --views '{views}'", 2, "--views")


def test_warmup_beyond_the_end():
    refused(f"{TEACHER} --warmup 2", 2, "--warmup", "at most all 1 epochs")
    good(f"{TEACHER} --warmup 1 --out {Path.cwd()}/runs/warm")


# Names

NAMES = [
    (f"train-teacher --model resnet9 {DATA}", "did you mean resnet8?"),
    ("train-teacher --model tiny-3 --data digit", "did you mean digits?"),
    ("train-teacher --model tiny-3 --data synthetic:a", "synthetic:ROWS,CLASSES,SIZE"),
    (f"{TEACHER} --augment crop-flp", "did you mean crop-flip?"),
    (f"{TEACHER} --augment albumentations:none.json", "none.json"),
    (f"{TEACHER} --device cuda:99", "--device"),
    (f"{TEACHER} --device meta", "--device"),
    (f"{DUMP} --teacher resnet9 -o no.h5", "did you mean resnet8?"),
    (f"{DUMP} --codec f17 -o no.h5", "--codec"),
    (f"{DUMP} --method stt -o no.h5", "did you mean st?"),
    (f"{DUMP} --method none -o no.h5", "--method"),
    (f"{DUMP} --views all --augment resized-crop:16 -o no.h5", "--views all"),
    (f"plan --teacher resnet9 {DATA}", "did you mean resnet8?"),
    (f"plan --teacher tiny-3 {DATA} --method none", "--method"),
    (f"plan --teacher tiny-3 {DATA} --codec f17", "--codec"),
    (f"plan --teacher tiny-3 {DATA} --method logits --codec logp8", "keeps the level of logits"),
    (f"{STUDENT} --cache a.h5 --student tny", "did you mean tiny"),
    (f"{STUDENT} --cache a.h5 --method stt", "did you mean st?"),
]


@pytest.mark.parametrize("case", NAMES, ids=lambda case: case[0])
def test_names(case):
    refused(case[0], 2, *case[1:])
    assert not list(Path().glob("no.h5*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_cuda_here():
    refused(f"{TEACHER} --device cuda", 2, "--device", "no CUDA device", "auto, cpu")


# Options that contradict each other

TOGETHER = [
    (f"{STUDENT} --cache a.h5 --augment crop", "--augment"),
    (f"{STUDENT} --cache a.h5 --views 3", "--views"),
    (f"{STUDENT} --cache a.h5 --teacher tiny-3", "--teacher: expected --live"),
    (f"{STUDENT} --cache a.h5 --weights {WEIGHTS}", "--weights: expected --live"),
    (f"{STUDENT} {DATA} --live", "--teacher"),
    (f"{STUDENT} {DATA}", "--cache"),
    (f"{STUDENT} {DATA} --live --teacher pseudo:0.9", "pseudo:0.9"),
    ("verify a.h5 --no-data --teacher tiny-3", "--no-data"),
    (f"verify a.h5 --no-data {DATA}", "--no-data"),
    (f"verify a.h5 --weights {WEIGHTS}", "--teacher"),
]


@pytest.mark.parametrize("case", TOGETHER, ids=lambda case: case[0])
def test_options_that_contradict_each_other(case):
    refused(case[0], 2, *case[1:])


def test_click_errors_of_any_kind_are_lines():
    import click

    for error in (click.UsageError("odd"), click.BadParameter("odd"), click.FileError("f", "odd")):
        assert frame.wrong_use(error).startswith("the command line: ")
