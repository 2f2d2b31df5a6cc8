"""What is said to be exact is: in the arithmetic of other processors, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from arithmetic import LARGE, ZOO

from kdcache.teachers.exact import exactness

SMALL = ("tiny-3", "tiny-32", "resnet8", "wrn-16-1", "mobilenetv2-half", "shufflenetv2-x50", "mixer", "attention")
PROCESSORS = {
    "this one": {},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "ATen default": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
}


def found(names, variables, threads=1, dtype="f32", layout="contiguous"):
    program = Path(__file__).with_name("arithmetic.py")
    command = [sys.executable, str(program), ",".join(names), str(threads), dtype, layout]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_no_false_exact(answers):
    assert [name for name, one in answers.items() if one["measured"]["exact"] and not one["same"]] == []


@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(name, marks=() if name == "this one" else pytest.mark.slow)
        for name in PROCESSORS  # make test-arithmetic runs "this one" under all of them
    ],
)
def test_what_is_measured_holds(processor):
    assert_no_false_exact(found(SMALL, PROCESSORS[processor]))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(2, "f32", "contiguous"), (1, "bf16", "channels_last")], ids=str)
def test_what_is_measured_holds_with_other_settings(settings):
    assert_no_false_exact(found(SMALL, {}, *settings))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_is_measured_holds_for_large_networks(processor, threads):
    assert_no_false_exact(found(LARGE, PROCESSORS[processor], threads))


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_zoo_answers_row_by_row(processor):
    """Convolutions of groups, shuffled and concatenated channels, poolings: their rounding depends on no other row."""
    answers = found(ZOO, PROCESSORS[processor])
    assert [name for name, one in answers.items() if not (one["measured"]["exact"] and one["same"])] == []


def test_answers_that_depend_on_their_company_are_found():
    images = torch.rand(64, 3)
    assert exactness(lambda x: {"logits": 2 * x}, images) == {"rows": 64, "exact": True}
    placed = exactness(lambda x: {"logits": x + 1e-3 * torch.arange(len(x))[:, None]}, images)
    assert not placed["exact"]
    assert 0 < placed["absolute"] <= 0.063 + 1e-6
    assert exactness(lambda x: {"logits": x * torch.nan}, images)["exact"] is False
