"""Files that were damaged: whoever reads them says so, or the damage changes nothing.

    python tests/attacks/damage.py --count 300 --seed 0
    python tests/attacks/damage.py --count 5000 --victims cache --kinds flip      # every one has to be found

Bits turn over; blocks of 512 or 4096 bytes become zero or change places; two blocks of records change places together
with their words; files are cut off, or get longer. The victims: finished caches, one that is half done, a shard,
weights, a training's state, and what a training or a finished recipe keeps in its folder. Then the command that reads
such a file is given. Outcomes:

    refused     one clear error
    found       the command went through, and `verify` or `evaluate` refuses what it left
    same        all is in the end as it would have been: the damage was written over, or lay where nothing is read
    started over  the same results; what was there is kept beside them
    unread      tables, caches and weights are the right ones; the damaged file itself is as it was
    wrong       other results, and nobody noticed
    traceback, signal N     the reader is at fault
"""

from __future__ import annotations

import os
import random
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common import TRACEBACK, clear, command, contents, in_turn, keep, must, options, ran, report, workplace
from kills import COMMANDS, DATA, DUMP, again
from kills import prepare as make_inputs

OLD = Path(__file__).resolve().parents[1] / "golden" / "v1.zip"
GOOD = ("refused", "found", "same", "started over", "unread")


def flip(data: bytearray, draw: random.Random, path: Path) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flips(data: bytearray, draw: random.Random, path: Path) -> None:
    for _ in range(draw.choice([2, 3, 8])):
        flip(data, draw, path)


def block_of(data: bytearray, draw: random.Random) -> slice:
    size = draw.choice([512, 4096])
    start = draw.randrange(len(data)) // size * size
    return slice(start, min(start + size, len(data)))


def zero(data: bytearray, draw: random.Random, path: Path) -> None:
    place = block_of(data, draw)
    data[place] = bytes(place.stop - place.start)


def swap(data: bytearray, draw: random.Random, path: Path) -> None:
    one, other = block_of(data, draw), block_of(data, draw)
    if one.stop - one.start == other.stop - other.start:
        data[one], data[other] = data[other], data[one]


def move(data: bytearray, draw: random.Random, path: Path) -> None:
    """Two blocks of records of one dataset, and what is said of them."""
    from kdcache.cache.layout import read_layout

    layout = read_layout(path)
    name = draw.choice([name for name in layout.filled() if name.startswith(("knowledge", "seeds"))])
    views, blocks = layout.blocks(name)
    places = [(draw.randrange(views), draw.randrange(blocks)) for _ in range(2)]
    spans = [layout.span(name, *place)[:2] for place in places]
    if spans[0][1] == spans[1][1]:
        words = [(layout.word_offset(name, *place), 8) for place in places]
        for pair in (spans, words):
            one, other = (slice(start, start + length) for start, length in pair)
            data[one], data[other] = data[other], data[one]


def cut(data: bytearray, draw: random.Random, path: Path) -> None:
    del data[draw.randrange(len(data)) :]


def append(data: bytearray, draw: random.Random, path: Path) -> None:
    data += draw.choice([b"\0", b"x", bytes(4096), draw.randbytes(100)])


KINDS = {"flip": flip, "flips": flips, "zero": zero, "swap": swap, "move": move, "cut": cut, "append": append}


@dataclass
class Victim:
    """Files that are damaged one at a time, and the command that reads them."""

    files: str  # a pattern
    read: str
    make: Callable[[], None] | None = None  # what lies there before, under out*; nothing: it is only read
    found_by: str = ""  # a command that refuses what the first has left, if anything is wrong with it
    kinds: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "move")


def half_done() -> None:
    """A dump that was left when half of the blocks of its logits were done."""
    from kdcache.cache.layout import read_layout
    from kdcache.cache.writer import Writer

    def left():
        Writer.finish = lambda self: os._exit(0)
        return command(COMMANDS["dump-logits"])

    ran(left)
    layout = read_layout(Path("out.h5.part"))
    with open("out.h5.part", "r+b") as file:
        place = layout.places["blocks/knowledge/logits"]
        os.pwrite(file.fileno(), bytes(place.nbytes // 2), place.offset + place.nbytes // 2)


def half_trained(name: str) -> Callable[[], None]:
    """A training that was left after its second epoch."""

    def make() -> None:
        from kdcache.train import loop

        saved = loop.save_state

        def left():
            def save(path, trainer, epoch, best):
                saved(path, trainer, epoch, best)
                if epoch == 2:
                    os._exit(0)

            loop.save_state = save
            return command(COMMANDS[name])

        ran(left)

    return make


def finished_recipe() -> None:
    must(COMMANDS["run"])
    clear("out/*/table.*")


def prepare() -> None:
    make_inputs()
    with zipfile.ZipFile(OLD) as caches:
        Path("old.h5").write_bytes(caches.read("int8.h5"))
    must(f"{COMMANDS['train-student'].replace('--runs out', '--out student')}")


WEIGHTS = "runs/*/last.safetensors"
VICTIMS = {
    "cache": Victim("made.h5", "verify made.h5 --no-data", kinds=tuple(KINDS)),
    "cache of version 1": Victim("old.h5", "verify old.h5 --no-data"),
    "part": Victim(
        "out.h5.part", f"{DUMP} -o out.h5", half_done, "verify out.h5 --teacher tiny-3 --device cpu", tuple(KINDS)
    ),
    "shard": Victim("made.shard1of2.h5", COMMANDS["merge"], lambda: clear("out*"), "verify out.h5 --no-data"),
    "teacher's weights": Victim(WEIGHTS, "verify made.h5 --teacher tiny-3 --device cpu"),
    "student's weights": Victim("student/last.safetensors", f"evaluate student/last.safetensors {DATA} --device cpu"),
    "teacher's run": Victim("out/*/*", again("train-teacher"), half_trained("train-teacher")),
    "student's run": Victim("out/*/*", again("train-student"), half_trained("train-student")),
    "finished recipe": Victim("out/**/*", COMMANDS["run"], finished_recipe, "verify out/recipe/logits.h5 --no-data"),
}


@dataclass
class Scene:
    """What a victim looks like before the damage, and what its command makes of it without any."""

    victim: Victim
    before: dict[Path, bytes]
    truth: dict[str, str]
    content: list | None  # of a cache that is only read


def content_of(path: Path) -> list:
    """All that a reader says of a cache."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from hostile_cases import everything

    return everything(path)


def scene(victim: Victim) -> Scene:
    clear("out*")
    if victim.make:
        victim.make()
    before = {path: path.read_bytes() for path in Path().glob("out*/**/*") if path.is_file()}
    before |= {path: path.read_bytes() for path in Path().glob("out*") if path.is_file()}
    before |= {path: path.read_bytes() for path in Path().glob(victim.files) if path.is_file()}
    code, words = ran(victim.read)
    assert code == 0, words
    cache = Path(victim.files) if not victim.make and victim.files.endswith(".h5") else None
    return Scene(victim, before, contents("out*"), cache and content_of(cache))


def restored(scene: Scene) -> None:
    if scene.victim.make:
        clear("out*")
    for path, data in scene.before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def damaged(scene: Scene, kinds: list[str], draw: random.Random) -> tuple[Path, str]:
    """Which file, and how."""
    targets = set(Path().glob(scene.victim.files))
    files = [path for path in sorted(scene.before) if path in targets and scene.before[path]]
    path, kind = draw.choice(files), draw.choice([kind for kind in scene.victim.kinds if kind in kinds])
    data = bytearray(scene.before[path])
    for _ in range(100):
        KINDS[kind](data, draw, path)
        if data != scene.before[path]:
            break
    else:
        kind, data = "flip", bytearray(scene.before[path])
        flip(data, draw, path)
    path.write_bytes(data)
    return path, kind


def outcome(scene: Scene, path: Path) -> tuple[str, str]:
    code, words = ran(scene.victim.read)
    if code < 0 or code == TRACEBACK or "Traceback" in words:
        return ("traceback" if code > 0 else f"signal {-code}"), words
    if code:
        return "refused", words
    found = contents("out*")
    if found == scene.truth and scene.victim.make:
        return "same", words
    if scene.victim.found_by and (second := ran(scene.victim.found_by))[0] == 1:
        return "found", words + second[1]
    if path.suffix == ".safetensors":
        second = ran(f"evaluate {path} {DATA} --device cpu")
        if second[0] == 1:
            return "found", words + second[1]
    if path.suffix == ".h5" and not scene.victim.make:
        return ("same" if content_of(path) == scene.content else "wrong"), words
    if not scene.victim.make:
        return "wrong", words
    differ = {name for name in found.keys() | scene.truth.keys() if found.get(name) != scene.truth.get(name)}
    aside = {name for name in differ if "~" in name}
    if differ == aside:
        return "started over", words
    if differ == {str(path)} and path.suffix not in (".safetensors", ".h5"):
        return "unread", words
    return "wrong", f"{words}\ndiffer: {sorted(differ)}"


def run(count: int, seed: int, victims: list[str], kinds: list[str], kept: Path | None) -> Counter:
    found = Counter()
    prepare()
    chosen = in_turn(victims, count, seed)
    scenes = {name: scene(VICTIMS[name]) for name in dict.fromkeys(chosen)}
    for number, name in enumerate(chosen):
        draw = random.Random(f"{seed}:{number}")
        restored(scenes[name])
        path, kind = damaged(scenes[name], kinds, draw)
        result, words = outcome(scenes[name], path)
        found[f"{name}, {kind}", result] += 1
        if result not in GOOD:
            keep(kept, f"{number}-{name}-{kind}-{result}", words, str(path))
            print(f"{name}, {kind} in {path}, trial {number}: {result}: {words[-600:]}", file=sys.stderr)
        restored(scenes[name])
    return found


def main() -> int:
    def more(parser):
        parser.add_argument("--victims", default=",".join(VICTIMS), help="some of them, with commas between")
        parser.add_argument("--kinds", default=",".join(KINDS))

    asked = options(__doc__, 90, more)
    kept = asked.keep and asked.keep.absolute()
    with workplace():
        found = run(asked.count, asked.seed, asked.victims.split(","), asked.kinds.split(","), kept)
    return report(found, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
