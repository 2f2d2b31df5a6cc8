"""Files and arguments from anywhere: each ends in one line and at once, whatever is in it.

    python tests/attacks/untrusted.py [--count 20 --seed 0] [--seconds 10] [--gigabytes 1.5] [NAME ...]

Every input meets a command in a process of its own, which has so much time and so much memory beyond what it begins
with. A line per input: how it ended, seconds, memory, and what was said. The exit code is 1 if one of them was killed,
ran into a limit, or ended in a traceback.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import select
import shlex
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from common import keep, options, report

SMALL = "--data synthetic:64,4,16"


def recipe(text: str = "", **parts: str) -> str:
    """A recipe with some of its parts replaced."""
    whole = {"": "seeds = 1", "teacher": 'model = "tiny-3"', "dump": "views = 1", "settings": "epochs = 1"} | parts
    tables = "\n".join(f"[{name}]\n{keys}" if name else keys for name, keys in whole.items())
    return f'data = "synthetic:64,4,16"\n{text}\n{tables}\n[[student]]\nmodel = "tiny-2"\n'


def write(name: str, content: str | bytes) -> Callable[[], None]:
    return lambda: Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def folder(make: Callable[[Path], None]) -> Callable[[], None]:
    """A folder of small images, one of which is made otherwise: birds/train/a/0.png."""

    def build() -> None:
        from PIL import Image

        for split in ("train", "test"):
            for label in "ab":
                place = Path("birds", split, label)
                place.mkdir(parents=True)
                for number in range(3):
                    Image.new("RGB", (16, 16), (number, 0, 0)).save(place / f"{number}.png")
        strange = Path("birds/train/a/0.png")
        strange.unlink()
        make(strange)

    return build


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    from PIL import Image

    Image.new("RGB", (16, 16)).save(file := io.BytesIO(), "JPEG")
    data = file.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def npy_header(shape: tuple, dtype: str = "<f4") -> bytes:
    import numpy as np

    np.lib.format.write_array_header_1_0(file := io.BytesIO(), {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(header: bytes, megabytes: int) -> Callable[[], None]:
    """Zeros, a thousand times smaller in the file."""

    def build() -> None:
        archive = zipfile.ZipFile("a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with archive, archive.open("a.npy", "w", force_zip64=True) as file:
            file.write(header)
            for _ in range(megabytes):
                file.write(bytes(1 << 20))

    return build


def pipeline(**transform) -> str:
    step = {"p": 1.0} | transform
    whole = {"__class_fullname__": "Compose", "p": 1.0, "transforms": [step]}
    return json.dumps({"__version__": "2.0.8", "transform": whole})


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
RESIZE = {"__class_fullname__": "Resize", "interpolation": 1, "mask_interpolation": 0}
TRAIN = f"train-teacher --model tiny-2 --epochs 1 --device cpu {SMALL}"
BIRDS = "train-teacher --model tiny-2 --epochs 1 --device cpu --data folder:birds"
MANY = "9" * 400

INPUTS: dict[str, tuple[Callable[[], object] | None, str, str]] = {
    # name: what lies in the folder, the command, and a word of the answer
    "a recipe of nested lists": (write("r.toml", f"x = {'[' * 5000}{']' * 5000}"), "run r.toml", "nested too deeply"),
    "a recipe of nested tables": (write("r.toml", f"[{'.'.join('a' * 5000)}]"), "run r.toml", "r.toml"),
    "a recipe of 10^12 seeds": (write("r.toml", recipe(**{"": "seeds = 1000000000000"})), "run r.toml", "seeds"),
    "a recipe of 400 digits": (write("r.toml", recipe(settings=f"epochs = {MANY}")), "run r.toml", "epochs"),
    "a recipe whose rate has 400 digits": (write("r.toml", recipe(settings=f"lr = {MANY}")), "run r.toml", "lr"),
    "a recipe of 5000 digits": (write("r.toml", recipe(settings=f"epochs = {'9' * 5000}")), "run r.toml", "r.toml"),
    "a recipe of 10^12 views": (write("r.toml", recipe(dump="views = 1000000000000")), "run r.toml", "views"),
    "a recipe that is a pipe": (lambda: os.mkfifo("r.toml"), "run r.toml", "no regular file"),
    "a recipe that never ends": (lambda: os.symlink("/dev/zero", "r.toml"), "run r.toml", "no regular file"),
    "a recipe of a terabyte": (lambda: sparse(Path("r.toml")), "run r.toml", "more than"),
    "a recipe that names code": (write("r.toml", recipe(teacher='model = "evil:make"')), "run r.toml", "--code"),
    "an image that never ends": (folder(lambda path: path.symlink_to("/dev/zero")), BIRDS, "no regular file"),
    "an image that is a pipe": (folder(os.mkfifo), BIRDS, "no regular file"),
    "an image of a terabyte": (folder(sparse), BIRDS, "more than"),
    "a PNG of 10^10 pixels": (folder(lambda p: p.write_bytes(png(100_000, 100_000))), BIRDS, "KDCACHE_MAX_PIXELS"),
    "a PNG of 10^8 pixels": (folder(lambda p: p.write_bytes(png(10_000, 10_000))), BIRDS, "KDCACHE_MAX_PIXELS"),
    "a JPEG of 4 10^9 pixels": (folder(lambda p: p.write_bytes(jpeg(65_000, 65_000))), BIRDS, "KDCACHE_MAX_PIXELS"),
    "an npz bomb": (npz(npy_header((1 << 16, 1 << 14)), 64), f"import-logits a.npz {SMALL}", "64 rows"),
    "an npz longer than it says": (
        npz(npy_header((64, 4)), 256), f"import-logits a.npz {SMALL} --anyway --kind logits", "64 rows",
    ),
    "an npz of a negative shape": (npz(npy_header((-1, 4)), 1), f"import-logits a.npz {SMALL}", "64 rows"),
    "an npy that promises a terabyte": (
        write("a.npy", npy_header((1 << 20, 1 << 18))), f"import-logits a.npy {SMALL}", "a.npy",
    ),
    "logits that are a pipe": (lambda: os.mkfifo("a.npy"), f"import-logits a.npy {SMALL}", "no regular file"),
    "logits that never end": (lambda: os.symlink("/dev/zero", "a.npz"), f"import-logits a.npz {SMALL}", "regular file"),
    "a likeness that is a pipe": (lambda: os.mkfifo("a.npy"), f"pseudo-teacher --like a.npy {SMALL}", "regular file"),
    "a confusion that never ends": (
        lambda: os.symlink("/dev/zero", "a.csv"), f"pseudo-teacher --confusion a.csv {SMALL}", "regular file",
    ),
    "weights that are a pipe": (lambda: os.mkfifo("a.pt"), f"evaluate a.pt --model tiny-2 {SMALL}", "regular file"),
    "weights that never end": (
        lambda: os.symlink("/dev/zero", "a.pt"), f"evaluate a.pt --model tiny-2 {SMALL}", "regular file",
    ),
    "a cache that is a pipe": (lambda: os.mkfifo("a.h5"), "inspect a.h5", "no regular file"),
    "YAML of aliases": (write("a.yaml", ALIASES), f"{TRAIN} --augment albumentations:a.yaml", "aliases"),
    "YAML of nested lists": (write("a.yaml", "[" * 50_000), f"{TRAIN} --augment albumentations:a.yaml", "a.yaml"),
    "YAML that refers to itself": (write("a.yaml", "a: &a [*a]"), f"{TRAIN} --augment albumentations:a.yaml", "a.yaml"),
    "JSON of nested lists": (write("a.json", "[" * 200_000), f"{TRAIN} --augment albumentations:a.json", "a.json"),
    "a pipeline that resizes to 30000": (
        write("a.json", pipeline(**RESIZE, height=30_000, width=30_000)),
        f"{TRAIN} --augment albumentations:a.json", "of at most 4096",
    ),
    "a pipeline that scales a thousandfold": (
        write("a.json", pipeline(__class_fullname__="RandomScale", scale_limit=[1000, 1000])),
        f"{TRAIN} --augment albumentations:a.json", "of at most 16",
    ),
    "10^12 views": (None, f"dump-logits --teacher tiny-2 {SMALL} --views 1000000000000", "--views"),
    "views of 5000 digits": (None, f"dump-logits --teacher tiny-2 {SMALL} --views {'9' * 5000}", "--views"),
    "10^6 workers": (None, f"{TRAIN} --workers 1000000", "--workers"),
    "epochs of 400 digits": (None, f"train-teacher --model tiny-2 {SMALL} --epochs {MANY}", "--epochs"),
    "10^12 seeds": (write("r.toml", recipe()), "run r.toml --seeds 1000000000000", "--seeds"),
    "10^12 made-up images": (None, "train-teacher --model tiny-2 --data synthetic:1000000000000,10,32", "--data"),
    "made-up images of 5000 digits": (None, f"train-teacher --model tiny-2 --data synthetic:{'9' * 5000},2", "--data"),
    "a view of 10^12": (None, f"{TRAIN} --augment resized-crop:1000000000000", "resized-crop"),
    "a shard of 10^12": (None, f"dump-logits --teacher tiny-2 {SMALL} --shard 1/1000000000000", "--shard"),
    "views to keep up to 10^12": (None, "prune a.h5 -o b.h5 --views 0-1000000000000", "--views"),
}  # fmt: skip


def meet(name: str, seconds: float, gigabytes: float) -> dict:
    """What becomes of a command that meets this input, in a process of its own."""
    make, command, word = INPUTS[name]
    with tempfile.TemporaryDirectory() as place:
        readable, writable = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.chdir(place)
            os.close(readable)
            answer(make, command, gigabytes, writable)
        os.close(writable)
        if not select.select([readable], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        with open(readable, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
    lines = said.strip().splitlines()
    right = code in (0, 1, 2) and len(lines) >= 1 and word in said and "Traceback" not in said
    return {
        "name": name, "right": right, "code": code, "seconds": round(time.monotonic() - started, 1),
        "megabytes": usage.ru_maxrss // 1024, "said": lines[-1] if lines else "",
    }  # fmt: skip


def answer(make, command: str, gigabytes: float, writable: int) -> None:
    """The child's side: the command under its limits; what it says goes into the pipe."""
    code = 99
    try:
        if make:
            make()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(gigabytes * 2**30),) * 2)
        from kdcache.cli import main

        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                main(shlex.split(command), prog_name="kdcache")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            said.write(traceback.format_exc())
        os.write(writable, said.getvalue().encode()[-60_000:])
    finally:
        os._exit(code)


def main() -> int:
    def more(parser):
        parser.add_argument("names", nargs="*", help="of inputs; of all of them if none is given")
        parser.add_argument("--seconds", type=float, default=10)
        parser.add_argument("--gigabytes", type=float, default=1.5)

    asked = options(__doc__, 0, more)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    import kdcache.jobs
    import kdcache.recipe  # noqa: F401  once, before all the children

    torch.set_num_threads(1)
    names = asked.names or list(INPUTS)
    if asked.count:
        names = random.Random(asked.seed).sample(names, min(asked.count, len(names)))
    found = Counter()
    for name in names:
        met = meet(name, asked.seconds, asked.gigabytes)
        said = f"code {met['code']}, {met['seconds']:4} s, {met['megabytes']} MB: {met['said']}"
        found["inputs", "answered" if met["right"] else "harm"] += 1
        print(f"{'ok  ' if met['right'] else 'FAIL'} {name:<36} {said[:200]}", flush=True, file=sys.stderr)
        if not met["right"]:
            keep(asked.keep, name, said)
    return report(found, ("answered",), asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
