"""Caches behind an address: served by a machine that drops connections, knows no ranges, or has another file by now."""

import contextlib
import http.server
import os
import pickle
import re
import threading
from functools import partial
from urllib.parse import unquote

import numpy as np
import pytest
from cli_cases import good, refused
from golden import make
from golden_cases import folder_of_old

import kdcache.read
from kdcache import ranges
from kdcache.bench.fixture import made_cache
from kdcache.cache import open_cache
from kdcache.cache.summary import summary
from kdcache.errors import CacheError

ROWS, CLASSES, VIEWS = 3000, 30, 6


class Served(http.server.BaseHTTPRequestHandler):
    """Files of a folder, as badly as the server's `manner` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        manner, asked = self.server.manner, self.headers.get("Range", "")
        self.server.asked.append(asked)
        if manner.get("busy", 0) > 0:
            manner["busy"] -= 1
            return self.refuse(503)
        path = self.server.folder / unquote(self.path.partition("?")[0].lstrip("/"))
        if not path.exists():
            return self.refuse(404)
        data, first = path.read_bytes(), 0
        if asked and manner.get("ranges", True):
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())
            if first >= len(data):
                return self.refuse(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
            part = data[first : last + 1]
        else:
            self.send_response(200)
            part = data
        self.send_header("Content-Length", str(len(part)))
        if manner.get("stamps", True):
            self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        drop = manner.get("drop")
        self.server.sent += len(part[:drop])
        with contextlib.suppress(OSError):
            self.wfile.write(part[:drop])
        if drop is not None and drop < len(part):
            self.close_connection = True

    def refuse(self, code):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_cache(tmp_path_factory.mktemp("made") / "logits.h5", ROWS, CLASSES, VIEWS, "f32")


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    """It serves what lies in its folder; its mirrors lie in another one."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    served.daemon_threads = True
    served.manner, served.asked, served.sent = {}, [], 0
    served.folder, served.mirrors = tmp_path / "served", tmp_path / "mirrors"
    served.folder.mkdir()
    os.link(made, served.folder / "logits.h5")
    served.url = f"http://127.0.0.1:{served.server_address[1]}/logits.h5"
    monkeypatch.setenv("KDCACHE_MIRROR", str(served.mirrors))
    monkeypatch.setattr(ranges.Elsewhere.__init__, "__defaults__", ((0.0, 0.0),))
    thread = threading.Thread(target=partial(served.serve_forever, poll_interval=0.01))
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def same(found, expected, seed=0):
    g = np.random.default_rng(seed)
    for view in range(expected.views):
        rows = g.integers(0, len(expected), 200)
        np.testing.assert_array_equal(found.read(view, rows)["logits"], expected.read(view, rows)["logits"])
        np.testing.assert_array_equal(found.seeds(view, rows), expected.seeds(view, rows))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.digests, expected.digests)


def test_one_view_is_read_and_no_other(server, made):
    cache = open_cache(server.url)
    opened, whole = server.sent, made.stat().st_size
    rows = np.arange(ROWS)
    np.testing.assert_array_equal(cache.read(3, rows)["logits"], open_cache(made).read(3, rows)["logits"])
    assert server.sent - opened == cache.bytes_of_view(["logits"])
    assert opened < whole / 3
    assert repr(cache).startswith(f"Cache('{server.url}')")


def test_what_was_read_is_not_fetched_again(server, made):
    same(open_cache(server.url), open_cache(made))
    sent = server.sent
    same(open_cache(server.url), open_cache(made))  # as another process would
    same(pickle.loads(pickle.dumps(open_cache(server.url))), open_cache(made))
    assert server.sent - sent == 2  # bytes: which version is it?


@pytest.mark.parametrize("manner", [{"drop": 30_000}, {"ranges": False}, {"busy": 2},
    {"stamps": False}, {"ranges": False, "stamps": False}], ids=str)  # fmt: skip
@pytest.mark.parametrize("opened", [open_cache, kdcache.read.open_cache])
def test_a_bad_server_is_read_all_the_same(server, made, manner, opened):
    server.manner = dict(manner)
    same(opened(server.url), open_cache(made))


@pytest.mark.parametrize("name", ["f32", "int8", "logp8", "topk", "bits", "imported"])
def test_old_files_are_read(server, name, tmp_path):
    old = folder_of_old("v1", server.folder)
    found, expected = (kdcache.read.open_cache(place) for place in (
        server.url.replace("logits", name), old / f"{name}.h5"))  # fmt: skip
    for key, value in make.content(expected).items():
        np.testing.assert_array_equal(make.content(found)[key], value)


def test_a_server_that_never_sends_a_whole_answer_is_given_up(server):
    cache = open_cache(server.url)
    server.manner = {"drop": 0}
    with pytest.raises(CacheError, match=r"expected an answer, found .*; try again; blocks that are here are kept"):
        cache.read(4, [1])
    server.manner = {}
    assert cache.read(4, [1])["logits"].shape == (1, CLASSES)


@pytest.mark.parametrize("stamps", [True, False])
def test_another_file_at_the_address_is_noticed(server, made, stamps):
    server.manner = {"stamps": stamps}
    cache = open_cache(server.url)
    cache.read(0, [1])
    data = made.read_bytes()
    data = data[:-1] + bytes([data[-1] ^ 1]) if stamps else data + bytes(1)  # without stamps, its size tells
    (server.folder / "new.h5").write_bytes(data)
    os.replace(server.folder / "new.h5", server.folder / "logits.h5")
    assert cache.read(0, [1])["logits"].shape == (1, CLASSES)  # it is here
    with pytest.raises(CacheError, match="expected the file that was opened, found another one at that address"):
        cache.read(4, range(ROWS))
    with pytest.raises(CacheError, match="found another one at that address"):
        cache.require_unchanged()


def test_a_machine_that_is_gone_ends_no_training(server):
    cache = open_cache(server.url)
    before = cache.read(0, range(ROWS))["logits"]
    (server.folder / "logits.h5").unlink()
    cache.require_unchanged()
    np.testing.assert_array_equal(cache.read(0, range(ROWS))["logits"], before)
    with pytest.raises(CacheError, match="HTTP 404 Not Found; check the address"):
        cache.read(1, [0])
    with pytest.raises(CacheError, match="HTTP 404 Not Found; check the address"):
        open_cache(server.url)


def test_a_mirror_that_was_damaged_is_filled_in_again(server, made):
    cache = open_cache(server.url)
    same(cache, open_cache(made))
    size = cache.path.stat().st_size
    for start in (0, 500, cache.layout.places["labels"].offset, cache.layout.places["knowledge/logits"].offset):
        with open(cache.path, "r+b") as file:
            file.seek(start)
            file.write(bytes(range(256)))
        same(open_cache(server.url), open_cache(made))
    assert cache.path.stat().st_size == size


def test_damage_over_there_is_found_and_not_kept(server, made):
    data = bytearray(made.read_bytes())
    data[open_cache(made).layout.places["knowledge/logits"].offset] ^= 1
    (server.folder / "bad.h5").write_bytes(data)
    cache = open_cache(server.url.replace("logits", "bad"))
    with pytest.raises(CacheError, match=r"bad.h5:/knowledge/logits: .* wrong CRC in block 0 of view 0"):
        cache.read(0, [0])
    data[50:60] = bytes(10)
    (server.folder / "bad.h5").write_bytes(data)
    with pytest.raises(CacheError, match=rf"^{re.escape(server.url.replace('logits', 'bad'))}: expected"):
        open_cache(server.url.replace("logits", "bad"))


@pytest.mark.parametrize("data", [b"", b"<html>", bytes(10**5), b"\x89HDF\r\n\x1a\n" + bytes(10**5)])
def test_what_is_no_cache_is_refused_with_its_address(server, data):
    (server.folder / "page.h5").write_bytes(data)
    with pytest.raises(CacheError, match=r"^http://.*page.h5: expected "):
        open_cache(server.url.replace("logits", "page"))
    assert not list(server.mirrors.rglob("page.h5*"))


@pytest.mark.parametrize("name", ["ü berg.h5", "a" * 220 + ".h5", "..h5", "a?b=1&c.h5"])
def test_any_name_will_do(server, made, name):
    (server.folder / "logits.h5").rename(server.folder / name.partition("?")[0])
    cache = open_cache(server.url.replace("logits.h5", name))
    np.testing.assert_array_equal(cache.read(0, [7])["logits"], open_cache(made).read(0, [7])["logits"])
    assert cache.path.is_relative_to(server.mirrors)


def test_a_folder_is_named_and_a_summary_reads_the_header_alone(server, made, tmp_path):
    cache = open_cache(server.url, folder=tmp_path / "mine")
    assert cache.path.is_relative_to(tmp_path / "mine")
    assert cache.path.name == "logits.h5"
    facts, expected = summary(server.url), summary(made)
    assert facts.pop("file") == server.url
    assert facts == {key: value for key, value in expected.items() if key != "file"}


def test_a_student_is_trained_from_an_address_as_from_the_file(server, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = {}
    for place in (server.url, made):
        line = f"train-student --cache {place} --student tiny-2 --epochs 1 --batch 512 --device cpu --json"
        runs[place] = good(f"{line} --out {tmp_path / str(len(runs))}").json()
    networks = [(tmp_path / name / "last.safetensors").read_bytes() for name in "01"]
    assert networks[0] == networks[1]
    assert good(f"inspect {server.url} --json").json()["rows"] == ROWS


@pytest.mark.parametrize("line", ["prune {} -o a.h5 --views 0", "merge {} -o a.h5", "verify {}"])
def test_what_needs_the_file_itself_refuses(server, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(line.format(server.url), 2, "expected a file on this machine, found an address; download it")


@pytest.mark.parametrize("line", ["prune {made} -o {url} --views 0", "pseudo-teacher -o {url}"])
def test_nothing_is_written_to_an_address(server, made, line):
    refused(line.format(made=made, url=server.url), 2, "expected a place on this machine")


def test_fsspec_reads_other_addresses(made, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://models/logits.h5", "wb") as file:
        file.write(made.read_bytes())
    cache = open_cache("memory://models/logits.h5", folder=tmp_path)
    same(cache, open_cache(made))
    with pytest.raises(CacheError, match=r"^memory://models/none.h5: expected a cache file"):
        open_cache("memory://models/none.h5", folder=tmp_path)
    with pytest.raises(CacheError, match=r"nosuch://x: .*pip install s3fs"):
        open_cache("nosuch://x", folder=tmp_path)
