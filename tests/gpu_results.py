"""What a GPU makes of the tests marked gpu, and how fast it is: one JSON and one Markdown file.

python tests/gpu_results.py docs/results/gpu     # writes gpu.json and gpu.md; make gpu
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch

from kdcache import bench
from kdcache.bench.fixture import made_cache, made_data, stepper
from kdcache.bench.page import sections
from kdcache.bench.timing import alternate, figure, rate
from kdcache.cache import open_cache
from kdcache.jobs import Student, taught_by
from kdcache.train import Settings
from kdcache.types import quiet
from kdcache.views import open_view, seeds_of

VIEWS = (("crop-flip", 32, 4096), ("crop-flip-cutout", 32, 4096), ("resized-crop:224", 256, 256))  # side, batch
BENCHES = ("train", "live", "dump")  # those that take the accelerator where there is one
ROUNDS = 15


def main(stem: Path) -> int:
    if not torch.cuda.is_available():
        print("make gpu: expected a CUDA device that torch can use, found none; run it on a machine with one")
        return 1
    benches = {"views": rendered, "step": waits} | {
        name: lambda name=name: bench.BENCHES[name](quiet) for name in BENCHES
    }
    made = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    found = made | {"tests": tested(), "benches": {name: bench.measured(run) for name, run in benches.items()}}
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page(found))
    print(f"{stem}.json, {stem}.md")
    failed = any(test["outcome"] == "failed" for test in found["tests"])
    return int(failed or not found["tests"] or any("failed" in one for one in found["benches"].values()))


def tested() -> list[dict]:
    """The name, the outcome and the seconds of every test marked gpu."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-m", "gpu", f"--junitxml={report}"]
        subprocess.run(command, check=False, stdout=sys.stderr)
        return outcomes(report.read_text()) if report.exists() else []


def outcomes(report: str) -> list[dict]:
    """What pytest wrote."""
    found = []
    for case in ElementTree.fromstring(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        found.append({"name": name, "outcome": outcome, "seconds": float(case.get("time", 0))})
    return found


def rendered() -> dict:
    """Images a second that our own views render on the device, from pixels that lie there."""
    figures = []
    for spec, side, batch in VIEWS:
        view, images = open_view(spec, (side, side)), torch.zeros((batch, 3, side, side), dtype=torch.uint8).cuda()
        seeds = torch.from_numpy(seeds_of(view, 0, 0, np.arange(batch)))
        times = alternate({"ours": lambda v=view, i=images, s=seeds: v.render(i, s)}, ROUNDS, quiet, spec)
        figures.append(rate(times, f"{spec} of {side}x{side}, batches of {batch}", "ours", batch, "images/s"))
    return {"what": "seeds and uint8 images to rendered batches, on the device", "figures": figures}


def waits() -> dict:
    """How often a step from the cache waits for the device, as torch counts it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cache = open_cache(made_cache(Path(folder) / "a.h5", 256, 10, 2))
        student = Student(made_data(256, 10, 8), "tiny-3", "st", Settings(), taught_by(cache), device="cuda")
        step = stepper(student, 64, stack)
        step()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    waited = [one for one in said if "synchroniz" in str(one.message)]
    return {"what": "a step of tiny-3 from the cache", "figures": [figure("waits for the device", [len(waited)], "")]}


def page(found: dict) -> str:
    """The results as Markdown."""
    outcomes = [test["outcome"] for test in found["tests"]]
    count = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    lines = ["# On a GPU", "", f"`make gpu`: {found['device']}, torch {found['torch']}, CUDA {found['cuda']}.", ""]
    lines += [f"Tests marked `gpu`: {count}.", ""]
    lines += [f"- failed: `{test['name']}`" for test in found["tests"] if test["outcome"] == "failed"]
    lines += ["", *sections(found["benches"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
