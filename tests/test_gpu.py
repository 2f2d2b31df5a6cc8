"""A student on a GPU is that on a CPU; and `make gpu`, which runs these tests and writes what it finds."""

import contextlib

import gpu_results
import pytest
import torch

from kdcache.bench.fixture import made_data, made_teacher, stepper
from kdcache.bench.timing import figure
from kdcache.cache import open_cache
from kdcache.jobs import DumpOptions, Student, make_dump, taught_by
from kdcache.train import Settings

METHODS = ["none", "st", "dkd", "at", "rkd"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_the_first_step_has_the_same_loss_on_a_gpu(method, tmp_path):
    data = made_data(128, 10, 16)
    options = DumpOptions(tmp_path / "a.h5", 2, method="st+at+rkd")
    with make_dump(made_teacher("tiny-3", data), data, options) as dump:
        cache = open_cache(dump.run())
    losses = {}
    for device in ("cpu", "cuda"):
        with contextlib.ExitStack() as stack:
            step = stepper(Student(data, "tiny-3", method, Settings(), taught_by(cache), device=device), 64, stack)
            losses[device] = {name: float(value) for name, value in step().items()}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)  # convolutions may be in TF32


def test_without_a_gpu_there_are_no_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_results.main(tmp_path / "gpu") == 1
    assert capsys.readouterr().out.count("\n") == 1
    assert not list(tmp_path.iterdir())


REPORT = """<testsuites><testsuite>
<testcase classname="a" name="b" time="0.5"/><testcase classname="a" name="c"><failure>x</failure></testcase>
<testcase classname="a" name="d"><skipped/></testcase></testsuite></testsuites>"""


def test_results_are_a_page(tmp_path, monkeypatch):
    """On no GPU, with benches that find something and one that fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    monkeypatch.setattr(gpu_results, "tested", lambda: gpu_results.outcomes(REPORT))
    found = {"what": "something", "figures": [figure("speed", [2.0, 3.0], "images/s")]}
    monkeypatch.setattr(gpu_results, "rendered", lambda: found)
    monkeypatch.setattr(gpu_results, "waits", lambda: 1 / 0)
    monkeypatch.setattr(gpu_results, "BENCHES", ())
    assert gpu_results.main(tmp_path / "gpu") == 1
    page = (tmp_path / "gpu.md").read_text()
    assert "1 passed, 1 failed, 1 skipped" in page
    assert "- failed: `a::c`" in page
    assert "speed" in page
    assert "ZeroDivisionError" in page
    assert (tmp_path / "gpu.json").exists()
