"""What may change between a dump and a training: each change has a verdict of its own, from `verify` and from training.

    python tests/attacks/drift.py --count 60 --seed 0

Images, labels, classes, the code of a view, what decodes the images and the teacher's weights are changed in random
places. Then the cache is verified, and a student is trained from it. Outcomes:

    named       both said DataChanged, PipelineChanged, LibraryChanged or TeacherChanged, whichever it was
    not used    of evaluation images alone: verify named it, and training left the stored answers of them out
    unnoticed   one of them went through
    misnamed    another verdict, or another error
    traceback   one of them ended in it
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common import TRACEBACK, command, in_turn, keep, must, options, ran, report, workplace

DATA, HOW = "--data folder:photos", "--device cpu --workers 0"
CODE = "--augment torchvision:my_view:make"
VIEW = """
import torchvision.transforms.v2 as t

def make():
    return t.Compose([t.RandomResizedCrop(16, scale=({scale}, 1.0)), t.RandomHorizontalFlip({p}), t.ColorJitter({hue})])
"""
AS_IT_WAS = {"scale": 0.4, "p": 0.5, "hue": 0.1}
TEACHER = "--teacher tiny-3"
GOOD = ("named", "not used")


def prepare() -> None:
    import numpy as np
    from PIL import Image

    sys.path.insert(0, str(Path.cwd()))
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label in ("ape", "bee", "cat"):
            (place := Path("photos", split, label)).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (70, 66 + number % 3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number:02}.png")
    Path("my_view.py").write_text(VIEW.format(**AS_IT_WAS))
    must(f"train-teacher --model tiny-3 {DATA} --augment resized-crop:16 --epochs 1 {HOW}")
    dump = f"dump-logits {TEACHER} {DATA} --views 2 {HOW}"
    must(f"{dump} --augment resized-crop:16 -o made.h5")
    must(f"{dump} {CODE} -o coded.h5")
    for path in ("photos", "my_view.py"):
        (shutil.copytree if Path(path).is_dir() else shutil.copy)(path, f"was.{path}")


def restored() -> None:
    shutil.rmtree("photos")
    shutil.copytree("was.photos", "photos")
    shutil.copy("was.my_view.py", "my_view.py")
    shutil.rmtree("__pycache__", ignore_errors=True)


def images(split: str) -> list[Path]:
    return sorted(Path("photos", split).rglob("*.png"))


def change_pixel(split: str) -> Callable:
    def change(draw: random.Random) -> None:
        import numpy as np
        from PIL import Image

        path = draw.choice(images(split))
        pixels = np.array(Image.open(path))
        pixels[draw.randrange(70), draw.randrange(66), draw.randrange(3)] ^= 1 << draw.randrange(8)
        Image.fromarray(pixels).save(path)

    return change


def exchange(split: str) -> Callable:
    def change(draw: random.Random) -> None:
        one, other = draw.sample(images(split), 2)
        shutil.copy(one, other)

    return change


def add(split: str) -> Callable:
    def change(draw: random.Random) -> None:
        path = draw.choice(images(split))
        shutil.copy(path, path.with_name(f"{draw.randrange(100)}x.png"))

    return change


def remove(split: str) -> Callable:
    return lambda draw: draw.choice(images(split)).unlink()


def rename(split: str) -> Callable:
    def change(draw: random.Random) -> None:
        path = draw.choice(images(split))
        path.rename(path.with_name(f"{draw.choice('0z')}{path.name}"))

    return change


def relabel(draw: random.Random) -> None:
    path = draw.choice(images("train"))
    other = draw.choice([label for label in ("ape", "bee", "cat") if label != path.parent.name])
    path.rename(path.parents[1] / other / f"{path.stem}x.png")


def rename_class(draw: random.Random) -> None:
    old, new = draw.choice(["ape", "bee", "cat"]), draw.choice(["ant", "cow", "zebra"])
    for split in ("train", "test"):
        Path("photos", split, old).rename(Path("photos", split, new))


def change_view(draw: random.Random) -> None:
    changed = draw.choice([{"scale": 0.41}, {"p": 0.6}, {"hue": 0.12}])
    Path("my_view.py").write_text(VIEW.format(**AS_IT_WAS | changed))


def other_code(draw: random.Random) -> None:
    text = VIEW.format(**AS_IT_WAS)
    more = draw.choice(["t.RandomVerticalFlip(0.5)", "t.RandomGrayscale(0.5)", "lambda image: image.rotate(2)"])
    Path("my_view.py").write_text(text.replace("])", f", {more}])"))


def decoded_otherwise(version: str | None) -> Callable[[], None]:
    """In the process of the command: another decoder, whether it says so or not."""

    def install() -> None:
        from kdcache.proof import canaries
        from kdcache.sources import encoded

        decode, now = encoded.decode, canaries.library_versions()
        encoded.decode = lambda path, data: decode(path, data) ^ 8
        if version:
            canaries.library_versions = lambda: now | {"pillow": version}

    return install


def other_weights(draw: random.Random) -> None:
    from kdcache.models.weights import load, save

    network = load(next(Path("runs").glob("*/last.safetensors")))
    weights = draw.choice([p for p in network.parameters() if p.numel() > 1])
    weights.data.view(-1)[draw.randrange(weights.numel())] += draw.choice([1e-4, 1.0])
    save(network, "other.safetensors")


@dataclass
class Drift:
    verdict: str
    change: Callable[[random.Random], object] | None = None
    install: Callable[[], None] | None = None
    file: str = "made.h5"
    more: str = ""  # options of both commands
    live: str = ""  # and of training
    optional: bool = False  # whether training may do without


OTHER = "--weights other.safetensors"
DRIFTS = {
    "a pixel": Drift("DataChanged", change_pixel("train")),
    "an image": Drift("DataChanged", exchange("train")),
    "an image added": Drift("DataChanged", add("train")),
    "an image removed": Drift("DataChanged", remove("train")),
    "an image renamed": Drift("DataChanged", rename("train")),
    "a pixel of evaluation": Drift("DataChanged", change_pixel("test")),
    "an evaluation image": Drift("DataChanged", exchange("test")),
    "an evaluation image added": Drift("DataChanged", add("test"), optional=True),
    "an evaluation image removed": Drift("DataChanged", remove("test"), optional=True),
    "a label": Drift("DataChanged", relabel),
    "a class renamed": Drift("DataChanged", rename_class),
    "a parameter of the view": Drift("PipelineChanged", change_view, file="coded.h5", more=CODE),
    "the code of the view": Drift("PipelineChanged", other_code, file="coded.h5", more=CODE),
    "pixels of the decoder": Drift("PipelineChanged", install=decoded_otherwise(None)),
    "another decoder": Drift("LibraryChanged", install=decoded_otherwise("0.1")),
    "the teacher's weights": Drift("TeacherChanged", other_weights, more=f"{TEACHER} {OTHER}", live="--live"),
}


def verdict(line: str, install: Callable[[], None] | None) -> tuple[str, str]:
    """What a command says: the name of an error, or `nothing`."""

    def telling() -> int:
        from kdcache.cli import frame

        explained = frame.explained

        def tell(error):
            print(f"\nverdict: {type(error).__name__}", file=sys.stderr)
            return explained(error)

        frame.explained = tell
        if install:
            install()
        return command(line)

    code, words = ran(telling)
    if code == TRACEBACK or "Traceback" in words:
        return "traceback", words
    names = re.findall(r"\b([A-Z]\w+Changed)\b|verdict: (\w+)", words)
    return (names[0][0] or names[0][1]) if code and names else "nothing" if not code else f"code {code}", words


def trial(drift: Drift, draw: random.Random) -> tuple[str, str]:
    restored()
    if drift.change:
        drift.change(draw)
    student = f"--student tiny-2 --epochs 2 --batch 12 --out students {HOW}"
    lines = [
        f"verify {drift.file} {drift.more} --device cpu",
        f"train-student --cache {drift.file} {drift.more} {drift.live} {student}",
    ]
    shutil.rmtree("students", ignore_errors=True)
    (said, words), (trained, more) = (verdict(line, drift.install) for line in lines)
    words = f"verify: {said}\n{words}\ntrain-student: {trained}\n{more}"
    if "traceback" in (said, trained):
        return "traceback", words
    if (said, trained) == (drift.verdict,) * 2:
        return "named", words
    if drift.optional and (said, trained) == (drift.verdict, "nothing"):
        return "not used", words
    return ("unnoticed" if "nothing" in (said, trained) else "misnamed"), words


def unchanged(file: str, more: str, live: str) -> None:
    """What the commands say of a drift that is none."""
    outcome, words = trial(Drift("nothing", file=file, more=more.replace(OTHER, ""), live=live), random.Random(0))
    assert outcome == "named", words


def run(count: int, seed: int, names: list[str], kept: Path | None) -> Counter:
    found = Counter()
    prepare()
    chosen = in_turn(names, count, seed)
    for asked in {(DRIFTS[name].file, DRIFTS[name].more, DRIFTS[name].live) for name in chosen}:
        unchanged(*asked)
    for number, name in enumerate(chosen):
        outcome, words = trial(DRIFTS[name], random.Random(f"{seed}:{number}"))
        found[name, outcome] += 1
        if outcome not in GOOD:
            keep(kept, f"{number}-{name}-{outcome}", words, "photos", "my_view.py", "other.safetensors")
            print(f"{name}, trial {number}: {outcome}: {words[-2500:]}", file=sys.stderr)
    return found


def main() -> int:
    def more(parser):
        parser.add_argument("--drifts", default=",".join(DRIFTS), help="some of them, with commas between")

    asked = options(__doc__, 48, more)
    kept = asked.keep and asked.keep.absolute()
    with workplace():
        found = run(asked.count, asked.seed, asked.drifts.split(","), kept)
    return report(found, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
