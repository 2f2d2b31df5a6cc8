"""What a network is fed with: said, remembered, offered, and never guessed in silence."""

import json
from pathlib import Path

import pytest
import torch
from cli_cases import CPU, DATA, SHORT, STUDENT, WEIGHTS, good, kdcache, refused
from safetensors.torch import load_file

from kdcache.cache import open_cache
from kdcache.errors import KdcacheWarning
from kdcache.jobs import Data, load_teacher
from kdcache.views import open_view

FED = "--mean 0.4,0.5,0.6 --std 0.2,0.25,0.3"
PLAIN = "--teacher tiny-3 --weights plain.pt"
COMMANDS = {
    "dump-logits": f"dump-logits {PLAIN} {DATA} --views 1 {CPU}",
    "plan": f"plan {PLAIN} {DATA} {CPU}",
    "train-student": f"{STUDENT} --live {PLAIN} {DATA}",
    "evaluate": f"evaluate plain.pt --model tiny-3 {DATA} {CPU}",
}


@pytest.fixture
def plain(home, tmp_path, monkeypatch) -> Path:
    """A folder with weights that do not say what their network is fed with."""
    monkeypatch.chdir(tmp_path)
    state = load_file(home / WEIGHTS)
    torch.save({name[5:]: value for name, value in state.items() if name.startswith("body.")}, "plain.pt")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_that_it_guesses(command, plain):
    said = good(COMMANDS[command])
    assert said.err.count("plain.pt: no mean and std in it; those of synthetic:64,4,16 are taken, mean 0.") == 1
    assert "give --mean and --std if it was trained with others" in said.err
    line = COMMANDS[command].replace("--views 1", "--views 1 -o other.h5")
    assert "no mean and std" not in good(f"{line} {FED}").err


def test_python_is_warned(plain):
    with pytest.warns(KdcacheWarning, match="no mean and std in it"):
        load_teacher("tiny-3", "plain.pt", Data.open("synthetic:64,4,16", None))


def test_what_is_given_is_what_it_is_fed_with_and_a_cache_remembers_it(plain):
    good(f"{COMMANDS['dump-logits']} {FED} -o a.h5")
    teacher = open_cache("a.h5").meta["teacher"]
    assert (teacher["mean"], teacher["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
    said = good(f"verify a.h5 {PLAIN} {CPU}")
    assert "no mean and std" not in said.err
    assert "no mean and std" not in good(f"{STUDENT} --live --cache a.h5 {PLAIN}").err
    said = kdcache(f"verify a.h5 {PLAIN} --mean 0.4,0.5,0.7 --std 0.2,0.25,0.3 {CPU}")
    assert (said.code, "TeacherChanged" in said.out) == (1, True)
    other = good(f"evaluate plain.pt --model tiny-3 {DATA} {CPU} --json --mean 0,0,0 --std 1,1,1").json()
    assert other["nll"] != good(f"evaluate plain.pt --model tiny-3 {DATA} {CPU} --json {FED}").json()["nll"]


def test_a_teacher_is_trained_with_it_and_its_weights_remember(plain):
    line = f"train-teacher --model tiny-3 {DATA} {SHORT} {CPU} {FED}"
    good(line)
    state = load_file(WEIGHTS)
    assert torch.allclose(state["normalize.mean"], torch.tensor([0.4, 0.5, 0.6]))
    assert torch.allclose(state["normalize.std"], torch.tensor([0.2, 0.25, 0.3]))
    assert json.loads(Path(WEIGHTS).with_name("run.json").read_text())["normalisation"] == [
        [0.4, 0.5, 0.6],
        [0.2, 0.25, 0.3],
    ]
    good(f"evaluate {WEIGHTS} {FED}")
    refused(
        f"evaluate {WEIGHTS} --mean 0,0,0 --std 1,1,1",
        2,
        "expected mean 0.4,0.5,0.6 and std",
        "leave --mean and --std out",
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--mean 0.4,0.5,0.6", "std: expected a number for each of red, green and blue, found none"),
        ("--std 0.4,0.5,0.6", "mean: expected a number for each"),
        ("--mean 0.4,0.5 --std 0.2,0.2,0.2", "mean: expected a number for each of red, green and blue, found 0.4,0.5"),
        ("--mean 123.7,116,103 --std 58,57,57", "divide numbers of 0..255 by 255"),
        ("--mean 0.4,0.5,0.6 --std 0,1,1", "std: expected numbers in units of 0..1"),
    ],
)
def test_what_cannot_be_meant(given, words, plain):
    refused(f"{next(iter(COMMANDS.values()))} {given}", 2, words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_cannot_be_meant(command, plain):
    refused(f"{COMMANDS[command]} --std 0.4,0.5,0.6", 2, "mean: expected a number for each")


def test_a_student_has_none_of_it(plain):
    refused(f"{STUDENT} --method none {DATA} {FED}", 2, "--mean and --std", "leave them out")


# A pipeline's own

STEPS = """
import torch
from torchvision.transforms import v2
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
def scaled(): return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
LARGE = v2.Normalize([255 * m for m in MEAN], [255 * s for s in STD])
def bytes_(): return v2.Compose([v2.ToDtype(torch.float32), LARGE])
def grey(): return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])])
def none(): return v2.Compose([v2.RandomHorizontalFlip()])
"""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "found"), [("scaled", IMAGENET), ("bytes_", IMAGENET), ("grey", None), ("none", None)]
)
def test_a_normalisation_that_is_taken_off_is_offered(name, found, plain):
    module = f"steps_{plain.name.replace('-', '_')}"
    Path(f"{module}.py").write_text(STEPS)
    spec = f"torchvision:{module}:{name}"
    assert open_view(spec, (16, 16)).normalisation == found
    said = good(f"train-teacher --model tiny-2 {DATA} {SHORT} --workers 0 --augment {spec}").err
    offered = "for weights that were trained with it: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
    assert (offered in said) == (found is not None)


def test_albumentations_own(plain):
    albumentations = pytest.importorskip("albumentations")
    for largest, mean in ((255, [0.485, 0.456, 0.406]), (1, [123.675, 116.28, 103.53])):
        std = [0.229, 0.224, 0.225] if largest == 255 else [58.395, 57.12, 57.375]
        steps = [albumentations.HorizontalFlip(), albumentations.Normalize(mean, std, max_pixel_value=largest)]
        albumentations.save(albumentations.Compose(steps), "a.json")
        assert open_view("albumentations:a.json", (16, 16)).normalisation == IMAGENET
