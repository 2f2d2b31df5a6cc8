"""Tar shards: rows stay rows, the index is theirs, and no archive reads past its end."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from reference_views import encoded, picture
from source_cases import CLASSES, EVAL, TRAIN, wds

from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.sources import located, open_source, shard_index
from kdcache.sources.arrays import blake
from kdcache.sources.shard_index import FIRST_LINE, ROW
from kdcache.sources.shards import expanded, shards_of
from kdcache.sources.tar import BLOCK, members

IMAGE = encoded(picture(70, 70))


def archive(path: Path, files: dict[str, bytes], format=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path) -> str:
    return wds(tmp_path)


def indices(folder: Path) -> list[Path]:
    return sorted(folder.glob(".kdcache-*.index"))


# archives


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_tarfile_finds_them(tmp_path, format):
    deep = "a" * 60 + "/" + "b" * 60
    names = ["a.jpg", "sub/ä.jpg", f"{deep}/c.jpg", "empty", "x" * 99]
    names += [] if format == tarfile.USTAR_FORMAT else ["y" * 300 + ".png"]
    path = archive(tmp_path / "a.tar", {name: os.urandom(n * 511) for n, name in enumerate(names)}, format)
    with open(path, "rb") as file, tarfile.open(path) as theirs:
        mine = list(members(str(path), file.fileno()))
        assert [(m.name, m.start, m.length) for m in mine] == [(t.name, t.offset_data, t.size) for t in theirs]


def test_links_and_folders_are_passed_over(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(IMAGE)
    (tmp_path / "in" / "b.jpg").symlink_to("/etc/passwd")
    os.link(tmp_path / "in" / "a.jpg", tmp_path / "in" / "c.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
    with open(tmp_path / "a.tar", "rb") as file:
        assert [Path(member.name).suffix for member in members("a", file.fileno())] == [".jpg"]


def header(name=b"a.jpg", size=b"%011o\0" % 5, kind=b"0") -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)], block[124:136], block[156:157], block[257:263] = name, size, kind, b"ustar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


BODY, END = b"hello".ljust(BLOCK, b"\0"), bytes(2 * BLOCK)
LONG = header(size=b"%011o\0" % BLOCK, kind=b"x")
WRONG = {
    "empty": (b"", "found no archive"),
    "no archive": (os.urandom(7 * BLOCK), "found no header of a file"),
    "gzip": (b"\x1f\x8b" + bytes(BLOCK), "found gzip: unpack it"),
    "cut off": (header() + BODY, "found its end missing"),
    "cut off in a header": (header() + BODY + header()[:100], "found its end missing"),
    "longer than the file": (header(size=b"%011o\0" % 10**6) + BODY + END, "1,000,000 bytes, past the end"),
    "2^88 bytes": (header(size=b"\x80" + b"\xff" * 11) + BODY + END, "past the end"),
    "a size of one block backwards": (header(size=b"-00000001000") + BODY + END, "found no header of a file"),
    "a negative size": (header(size=b"-0000000001\0") + BODY + END, "no header of a file|past the end"),
    "a size of letters": (header(size=b"hello world\0") + BODY + END, "found no header of a file"),
    "another checksum": (header().replace(b"a.jpg", b"b.jpg") + BODY + END, "found no header of a file"),
    "a pax header of nonsense": (LONG + b"999999 path=x\n".ljust(BLOCK, b"\0") + END, "an extended header"),
    "a pax length that stands still": (LONG + b"0 path=x\n".ljust(BLOCK, b"\0") + END, "an extended header"),
    "a long name of a GiB": (header(size=b"%011o\0" % (1 << 30), kind=b"L") + END, "past the end"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_archive_that_is_none_is_refused_in_a_line(tmp_path, case):
    data, words = WRONG[case]
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(f"wds:{tmp_path}/a.tar")
    assert str(caught.value).startswith(f"{tmp_path}/a.tar: expected a whole tar archive")


# which archives


def test_braces_and_wildcards(tmp_path):
    for name in ("t-00.tar", "t-01.tar", "t-10.tar", "v-00.tar"):
        (tmp_path / name).touch()

    def named(pattern: str) -> list[str]:
        return [os.path.basename(shard) for shard in shards_of("x", f"{tmp_path}/{pattern}")]

    assert named("t-{00..01}.tar") == ["t-00.tar", "t-01.tar"]
    assert named("{v,t}-00.tar") == ["v-00.tar", "t-00.tar"]
    assert named("t-*.tar") == named("t-??.tar") == ["t-00.tar", "t-01.tar", "t-10.tar"]
    assert named("{v,t}-*.tar") == ["v-00.tar", "t-00.tar", "t-01.tar", "t-10.tar"]
    assert named("{*,t-00}.tar") == ["t-00.tar", "t-01.tar", "t-10.tar", "v-00.tar"]
    for pattern, words in (("t-{00..02}.tar", "t-02.tar: expected a tar archive, found no such"), ("q*", "called .*q")):
        with pytest.raises(SourceError, match=words):
            named(pattern)
    with pytest.raises(SourceError, match="found a folder"):
        shards_of("x", str(tmp_path))


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..9999}{0..9999}.tar", "{5..1}"])
def test_braces_are_bounded(pattern):
    with pytest.raises(UsageError, match="1 to 1,000,000 archives"):
        next(expanded("x", pattern))


def test_names_of_archives_say_their_split(tmp_path):
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        archive(tmp_path / folder / "0.tar", {f"{folder}.jpg": IMAGE})
    assert open_source(f"wds:{tmp_path}/*/*.tar").names == ["0.tar/train.jpg"]
    assert open_source(f"wds:{tmp_path}/*/*.tar", "eval").names == ["0.tar/val.jpg"]


def test_archives_that_say_none_are_split_by_the_rule(tmp_path):
    archive(tmp_path / "a.tar", {f"{row:03}.jpg": IMAGE for row in range(60)})
    train = open_source(f"wds:{tmp_path}/a.tar")
    with pytest.warns(KdcacheWarning, match="one in 10 is held out"):
        other = open_source(f"wds:{tmp_path}/a.tar", "eval")
    assert 0 < len(other) < 15
    assert sorted(train.names + other.names) == [f"a.tar/{row:03}.jpg" for row in range(60)]


# samples


@pytest.mark.parametrize("suffix", ["cls", "txt", "json"])
def test_labels_of_every_kind(tmp_path, suffix):
    source = open_source(wds(tmp_path, suffix=suffix))
    rows = [*range(0, TRAIN, 2), *range(1, TRAIN, 2)]
    assert [int(Path(name).stem) for name in source.names] == rows
    assert source.labels.tolist() == [row % 3 for row in rows]
    assert source.classes == (["0", "1", "2"] if suffix == "cls" else CLASSES)


def test_samples_without_an_image_or_a_label(tmp_path):
    files = {"meta.json": b"[]", "a.jpg": IMAGE, "b.cls": b"1", "c.PNG": IMAGE, "c.cls": b" 1\n", "d.seg.png": b"no"}
    archive(tmp_path / "a-train.tar", files)
    source = open_source(f"wds:{tmp_path}/a-train.tar,label=cls")
    assert (source.names, source.labels.tolist()) == (["a-train.tar/a.jpg", "a-train.tar/c.PNG"], [-1, 1])


def test_the_label_is_chosen(tmp_path):
    content = {
        "a.jpg": IMAGE,
        "a.cls": b"0",
        "a.json": b'{"n": {"x": 1}, "kind": "bee", "label": 7}',
        "a.txt": b"A bee.",
    }
    archive(tmp_path / "train.tar", content)
    found = {}
    for label in ("", ",label=none", ",label=txt", ",label=json", ",label=json.kind"):
        source = open_source(f"wds:{tmp_path}/train.tar{label}")
        found[label] = [source.classes[one] for one in source.labels if one >= 0]
    assert list(found.values()) == [["0"], [], ["A bee."], ["7"], ["bee"]]
    with pytest.raises(UsageError, match=r"cls, json, txt, json\.KEY or none, found 'jpg'"):
        open_source(f"wds:{tmp_path}/train.tar,label=jpg")
    with pytest.raises(SourceError, match=r"train\.tar/a\.json: expected a label under sort, found none"):
        open_source(f"wds:{tmp_path}/train.tar,label=json.sort")


@pytest.mark.parametrize("label", [b"\xff\xfe", b"[1]", b"{", b"[" * 100_000])
def test_a_label_that_is_none_names_its_file(tmp_path, label):
    archive(tmp_path / "train.tar", {"a.jpg": IMAGE, "a.json": label})
    with pytest.raises(SourceError, match=r"train\.tar/a\.json: expected a label"):
        open_source(f"wds:{tmp_path}/train.tar")


# the index


def test_the_index_is_made_once_and_remade_when_an_archive_changes(shards, tmp_path, monkeypatch):
    first = open_source(shards)
    (index,) = indices(tmp_path)
    before = index.read_bytes(), index.stat().st_mtime_ns
    again, _ = open_source(shards), open_source(shards, "eval")
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before
    assert again.names == first.names
    archive(tmp_path / "train-0.tar", {"new.jpg": IMAGE, "new.cls": b"2"})
    changed = open_source(shards)
    assert changed.names[0] == "train-0.tar/new.jpg"
    assert len(changed) == TRAIN // 2 + 1
    assert indices(tmp_path) == [index]


def test_the_index_moves_with_its_archives(shards, tmp_path, tmp_path_factory):
    names = open_source(shards).names
    moved = tmp_path_factory.mktemp("moved") / "there"
    os.rename(tmp_path, moved)
    (index,) = indices(moved)
    time = index.stat().st_mtime_ns
    assert open_source(shards.replace(str(tmp_path), str(moved))).names == names
    assert index.stat().st_mtime_ns == time


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_index_is_remade(shards, tmp_path, damage):
    names = open_source(shards).names
    (index,) = indices(tmp_path)
    data = index.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    index.write_bytes({"cut": data[:-5], "flip": bytes(flipped), "empty": b"", "other": b"\x89HDF" * 50}[damage])
    source = open_source(shards)
    source.check()
    assert source.names == names
    assert index.read_bytes() == data


def test_an_index_that_points_elsewhere_is_remade(shards, tmp_path):
    """Its hash is no secret: what it says is compared with the archives."""
    names = open_source(shards).names
    (index,) = indices(tmp_path)
    head, _, rest = index.read_bytes()[len(FIRST_LINE) + 33 :].partition(b"\n")
    rows = TRAIN + EVAL
    for field, value in (("shard", 4), ("shard", -1), ("start", -5), ("length", 1 << 60), ("header", 1 << 62)):
        where = np.frombuffer(rest[: rows * ROW.itemsize], ROW).copy()
        where[3][field] = value
        content = head + b"\n" + where.tobytes() + rest[rows * ROW.itemsize :]
        index.write_bytes(FIRST_LINE + blake(content).encode() + b"\n" + content)
        source = open_source(shards)
        assert source.names == names
        source.check()


def test_an_archive_that_is_written_over_behind_the_index_is_named(shards, tmp_path):
    open_source(shards)
    path = tmp_path / "train-0.tar"
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[BLOCK * 60 :] + data[: BLOCK * 60])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(SourceError, match=r"expected .*, found (something else|12 that are not)"):
        open_source(shards).check()


def test_a_folder_that_cannot_be_written(shards, tmp_path, tmp_path_factory, monkeypatch):
    home, replace = tmp_path_factory.mktemp("home"), shard_index.replace

    def refuse(path, content):  # as the system does, unless one is root
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        replace(path, content)

    monkeypatch.setattr(shard_index, "replace", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    names = open_source(shards).names
    (index,) = indices(home / "kdcache")
    time = index.stat().st_mtime_ns
    assert open_source(shards).names == names
    assert index.stat().st_mtime_ns == time
    assert not indices(tmp_path)


def test_a_pattern_is_found_again_where_its_folder_went(tmp_path, monkeypatch):
    (tmp_path / "here" / "shards").mkdir(parents=True)
    wds(tmp_path / "here" / "shards")
    spec = "wds:data/shards/{train,test}-*.tar,label=cls"
    found = f"{tmp_path}/here/shards/{{train,test}}-*.tar,label=cls"
    assert located(spec, tmp_path / "here" / "a.h5") == found
    assert located("wds:*.tar", tmp_path / "a.h5") is None
