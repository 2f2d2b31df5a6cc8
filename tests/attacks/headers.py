"""Files whose structures a stranger has changed: each is refused, or says what it said. No crash, no hang, no memory.

    python tests/attacks/headers.py --count 100000 --seed 0

Two caches are changed, one laid out by kdcache and one by libhdf5, at random places: bytes, numbers and whole messages,
pieces of one structure in another, ends that are cut off; mostly with checksums made right again. Each is opened in a
process that has the file's size and 64 MB of memory, and a second of processor time, 30 by the clock. What became of
them is counted:

    refused    one clear error
    same       it opened, and everything in it is as it was
    other      it opened with other content. Only where checksums were made right: whoever can do that can forge a file
    wrong      it opened with other content though no checksum was made right
    traceback, memory, hang, signal N     the reader is at fault

It ends with 1 if there is any of the last two lines.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import options, report
from hostile_cases import lay_out_by_libhdf5

from kdcache.cache import open_cache
from kdcache.cache.hdf5 import read_structure
from kdcache.cache.hdf5.checksum import checksum
from kdcache.cache.layout import Layout, read_layout, sealed_crc
from kdcache.cache.summary import summary
from kdcache.errors import CacheError
from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.models import build
from kdcache.teachers import Forward

MEMORY, SECONDS, PATIENCE = 64 << 20, 1.0, 30.0
GOOD = ("refused", "same", "other")
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 127, 128, 255, 256, 4096, 65535, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63]
NUMBERS += [(1 << 64) - 1, (1 << 64) - 4096]


def sources(folder: Path) -> list[Path]:
    """A cache as it is laid out now, and the same content as libhdf5 laid it out, with dense groups."""
    data = Data.open("synthetic:60,10,8", None)
    network = build("tiny-3", len(data.train.classes), data.train.mean, data.train.std, seed=1).eval()
    options = DumpOptions(folder / "ours.h5", 2, forward=Forward(16), method="at+rkd+ft+sp")
    with make_dump(network, data, options) as made:
        ours = made.run()
    layout, content = read_layout(ours), ours.read_bytes()
    lay_out_by_libhdf5(folder / "theirs.h5", {name: (p.dtype, p.shape) for name, p in layout.places.items()})
    with h5py.File(folder / "theirs.h5") as file, open(folder / "theirs.h5", "r+b", buffering=0) as raw:
        for name, place in layout.places.items():
            data = content[place.offset : place.offset + place.nbytes]
            os.pwrite(raw.fileno(), data, file[name].id.get_offset())
    return [ours, folder / "theirs.h5"]


def everything(path: Path) -> list:
    """All that a reader says of a file."""
    read_layout(path)
    cache = open_cache(path)
    facts = summary(path)
    del facts["file"]
    rows, parts = range(len(cache)), []
    for view in range(cache.views):
        parts += [*cache.read(view, rows).values(), torch.from_numpy(cache.seeds(view, rows))]
    parts += [*cache.read_eval(range(cache.meta["eval"]["rows"])).values(), *cache.constants.values()]
    arrays = [part.numpy() for part in parts] + [cache.labels, cache.digests, *cache.canaries.values()]
    return [json.dumps(facts, sort_keys=True), *(array.tobytes() for array in arrays)]


class Victim:
    """A file that is changed and mended."""

    def __init__(self, path: Path):
        self.path, self.content, self.truth = path, path.read_bytes(), everything(path)
        with open(path, "rb") as file:
            found = read_structure(file.fileno())
        self.spans, self.meta = sorted(found.spans), found.places["meta"].span
        self.addresses = [start for start, _ in self.spans] + [place.offset for place in found.places.values()]
        self.file = open(path, "r+b", buffering=0)  # noqa: SIM115 - as long as the process

    def put(self, data: bytes) -> None:
        os.ftruncate(self.file.fileno(), len(data))
        for start in range(0, len(data), 4096):  # most pages are as they were
            page = data[start : start + 4096]
            if page != self.now[start : start + 4096] or len(self.now) < start + len(page):
                os.pwrite(self.file.fileno(), page, start)
        self.now = data

    now = b""


def resealed(data: bytearray, start: int, end: int) -> None:
    """Makes the checksum of a structure right; that of a heap's block lies in its middle."""
    if end > len(data) or end - start < 8:
        return
    place = start + 17 if data[start : start + 4] == b"FHDB" else end - 4
    if place == end - 4:
        body = bytes(data[start:place])
    else:
        data[place : place + 4] = bytes(4)
        body = bytes(data[start:end])
    data[place : place + 4] = struct.pack("<I", checksum(body))


def mutated(victim: Victim, draw: random.Random) -> tuple[bytes, bool]:
    """Another file, and whether anything was made right again."""
    data, right = bytearray(victim.content), draw.random() < 0.75
    touched = []
    for _ in range(draw.choice([1, 1, 1, 1, 2, 3])):
        start, end = draw.choice(victim.spans)
        touched.append((start, end))
        draw.choice(CHANGES)(victim, data, start, end, draw)
    if draw.random() < 0.05:
        right |= header_of_json(victim, data, draw)
    if right:
        for start, end in touched:
            resealed(data, start, end)
    if draw.random() < 0.1:
        right |= cut(data, draw)
    return bytes(data), right


def flip_bits(victim, data, start, end, draw) -> None:
    for _ in range(draw.choice([1, 1, 2, 8])):
        data[draw.randrange(start, end)] ^= 1 << draw.randrange(8)


def put_number(victim, data, start, end, draw) -> None:
    """An address, a length, or an extreme number."""
    width = draw.choice([1, 1, 2, 4, 8, 8])
    place = draw.randrange(start, max(start + 1, end - width))
    number = draw.choice([*NUMBERS, draw.choice(victim.addresses), len(victim.content), draw.getrandbits(64)])
    data[place : place + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


def splice(victim, data, start, end, draw) -> None:
    """A piece of one structure in another one."""
    from_, to = draw.choice(victim.spans)
    length = draw.randrange(1, min(to - from_, end - start) + 1)
    place, origin = draw.randrange(start, end - length + 1), draw.randrange(from_, to - length + 1)
    data[place : place + length] = victim.content[origin : origin + length]


def put_message(victim, data, start, end, draw) -> None:
    """A message of any type, length and content where another one begins."""
    if data[start : start + 4] != b"OHDR":
        return flip_bits(victim, data, start, end, draw)
    places, place = [], start + 6 + (1 << (data[start + 5] & 3))
    while place + 8 < end:
        places.append(place)
        place += 4 + int.from_bytes(data[place + 1 : place + 3], "little")
    place = draw.choice(places)
    length = draw.choice([int.from_bytes(data[place + 1 : place + 3], "little"), draw.randrange(40), 65535])
    head = struct.pack("<BHB", draw.choice([*range(24), 255]), length, draw.choice([0, 0, 0, 1, 2, 64, 255]))
    body = draw.randbytes(min(length, end - place - 4)) if draw.random() < 0.5 else b""
    data[place : place + 4 + len(body)] = (head + body)[: end - place]


def cut(data: bytearray, draw: random.Random) -> bool:
    """Another length; half of the time one that the superblock agrees with."""
    length = draw.choice([draw.randrange(len(data)), len(data) + draw.randrange(1, 9000)])
    data[length:] = bytes(max(0, length - len(data)))
    if draw.random() < 0.5 and len(data) >= 48:
        data[28:36] = struct.pack("<Q", len(data))
        resealed(data, 0, 48)
        return True
    return False


def header_of_json(victim, data, draw) -> bool:
    """Some bytes of the meta; the seal is then made right."""
    start, end = victim.meta
    for _ in range(draw.choice([1, 2, 5])):
        data[draw.randrange(start, end)] = draw.choice(b'0123456789[]{}",:-eE.tfn\\u \x00\xff')
    layout = read_layout_of(victim)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        seal = layout.places["seal"].offset
        data[seal : seal + 4] = struct.pack("<I", sealed_crc(layout, file))
    return True


def read_layout_of(victim: Victim) -> Layout:
    """Where things lay before it was changed."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(victim.content)
        file.flush()
        with open(file.name, "rb") as same:
            return Layout(victim.path, {}, read_structure(same.fileno()).places)


CHANGES = [flip_bits, put_number, put_number, put_number, splice, put_message, put_message]


def outcome(victim: Victim, right: bool) -> str:
    try:
        found = everything(victim.path)
    except CacheError as error:
        return "memory" if isinstance(error.__context__, MemoryError) else "refused"
    except MemoryError:
        return "memory"
    except Exception:
        return "traceback"
    if found == victim.truth:
        return "same"
    return "other" if right else "wrong"


def trial(victims: list[Victim], seed: int, number: int) -> tuple[Victim, bool]:
    """Changes one of the files."""
    draw = random.Random(f"{seed}:{number}")
    victim = victims[number % len(victims)]
    data, right = mutated(victim, draw)
    victim.put(data)
    return victim, right


def attack(victims: list[Victim], seed: int, first: int, count: int, pipe: int) -> None:
    """Trials one after the other in this process, the outcome of each as a line."""
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = space + max(len(victim.content) for victim in victims) + MEMORY
    for number in range(first, count):
        victim, right = trial(victims, seed, number)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        found = outcome(victim, right)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(pipe, f"{found}\n".encode())


def run(folder: Path, count: int, seed: int, keep: Path | None) -> Counter:
    """The outcomes of all trials; a process that dies is one, and another process goes on behind it."""
    counts, done = Counter(), 0
    victims = [Victim(path) for path in sources(folder)]
    while done < count:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                attack(victims, seed, done, count, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            found = [line.strip() for line in lines]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if done + len(found) < count:
            found.append("hang" if code in (-signal.SIGALRM, -signal.SIGPROF) else f"signal {-code}")
        counts.update(found)
        for number, one in enumerate(found, done):
            if one not in GOOD and keep:
                keep.mkdir(exist_ok=True)
                victim, _ = trial(victims, seed, number)
                shutil.copy(victim.path, keep / f"{number}-{one.replace(' ', '-')}.h5")
        done += len(found)
        for victim in victims:
            victim.now = b""  # nobody knows what the child left
    return counts


def main() -> int:
    asked = options(__doc__, 2000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), asked.count, asked.seed, asked.keep)
    return report(Counter({("structures", outcome): n for outcome, n in counts.items()}), GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
