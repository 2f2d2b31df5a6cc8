"""A library's pipeline, rendered in a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.views import Plain, from_json


def render_elsewhere(view: Plain, images, seeds: Tensor) -> Tensor:
    """The same rendering in a fresh process."""
    job = {
        "view": view.to_json(),
        "seeds": seeds.tolist(),
        "images": [[list(image.shape), bytes(image.numpy()).hex()] for image in images],
    }
    code = "import kdcache.views.library as l; l.answer()"
    where = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=where)
    if done.returncode:
        found = (done.stderr.strip().splitlines() or ["no answer"])[-1][-200:]
        raise UsageError(view.name, "a pipeline that runs in a worker", found, "correct the pipeline")
    return torch.frombuffer(bytearray.fromhex(done.stdout), dtype=torch.uint8).view(len(seeds), 3, *view.size)


def answer() -> None:
    """The other side of `render_elsewhere`."""
    job = json.loads(sys.stdin.read())
    images = [torch.frombuffer(bytearray.fromhex(data), dtype=torch.uint8).view(shape) for shape, data in job["images"]]
    header = job["view"]
    trusted = f"{header['view']}:{header['factory']}" if "factory" in header else None
    with contextlib.redirect_stdout(sys.stderr):  # the pipeline's code may print
        view = from_json("a fresh process", header, trusted)
        rendered = view.plain.render(images, torch.tensor(job["seeds"]))
    sys.stdout.write(bytes(rendered.numpy()).hex())
