"""docs/viewer.html in a browser: every codec, damaged files, both colour schemes, a phone. Skips without Chromium."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser_cases import CHROMIUM, WATCHED, chromium
from golden import make
from golden_cases import folder_of_old

import kdcache.read
from kdcache.bench.fixture import made_cache

PAGE = Path(__file__).parents[1] / "docs" / "viewer.html"
# a file as the page sees one, which notes what is read of it and needs no process beside the page's
ASKED = """<script>addEventListener("load", async () => {
  const found = {}, $read = (data, slices) => ({
    size: data.length,
    slice: (from, to) => ({ arrayBuffer: async () => (slices.push([from, to]), data.slice(from, to).buffer) }),
  });
  for (const [name, text] of Object.entries(FILES)) {
    const slices = [], cache = await open($read(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), slices), name);
    const fault = $("fault").textContent, words = $("words").textContent, told = $("told").textContent, answers = {};
    const hardest = [...$("hardest").rows].slice(1).map((row) => Number(row.cells[0].textContent));
    const opened = slices.map(([from, to]) => to - from);
    for (const knowledge of fault || !EXACT ? [] : Object.keys(cache.meta.knowledge)) {
      answers[knowledge] = [];
      for (const row of [0, 5, cache.rows - 1]) {
        answers[knowledge].push(Array.from(await cache.answer(knowledge, cache.views - 1, row)));
      }
    }
    found[name] = { fault, words, told, hardest, answers, facts: $("facts").innerText,
      hidden: document.querySelector("main").hidden, read: opened.reduce((a, b) => a + b, 0),
      most: Math.max(0, ...opened) };
  }
  document.title = JSON.stringify({ found, faults, wide: document.documentElement.scrollWidth, seen: innerWidth,
    paper: getComputedStyle(document.body).backgroundColor });
});</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


def viewed(tmp_path: Path, files: dict[str, bytes], *options: str, exact: bool = False, before: str = "") -> dict:
    """What the page shows of each of these files, one after the other."""
    given = json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()})
    asked = ASKED.replace("FILES", given).replace("EXACT", str(exact).lower()).replace("<script>", f"<script>{before}")
    copy = tmp_path / "viewer.html"
    copy.write_text(PAGE.read_text().replace("<head>", f"<head>{WATCHED}").replace("</body>", f"{asked}</body>"))
    text = chromium(tmp_path, copy, "--dump-dom", "--virtual-time-budget=1000000", *options)
    page = json.loads(re.search(r"<title>(\{.*?)</title>", text, re.S)[1].replace("&amp;", "&").replace("&lt;", "<"))
    assert page["faults"] == []
    return page


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Caches of every codec, of today and of version 1."""
    folder = folder_of_old("v1", tmp_path_factory.mktemp("golden"))
    found = {f"{name}.h5": folder / f"{name}.h5" for name in make.CACHES}
    for codec in ("f32", "f16", "int8", "logp8", "topk:7", "topk:30"):
        found[f"new {codec}.h5"] = made_cache(folder / f"new-{codec.replace(':', '')}.h5", 1100, 30, 2, codec)
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_it_shows_what_a_reader_reads(tmp_path, files):
    page = viewed(tmp_path, {name: path.read_bytes() for name, path in files.items()}, exact=True)
    for name, path in files.items():
        shown, cache = page["found"][name], kdcache.read.open_cache(path)
        assert shown["fault"] == ""
        for knowledge, rows in shown["answers"].items():
            expected = cache.read(cache.views - 1, [0, 5, len(cache) - 1], [knowledge])[knowledge]
            np.testing.assert_array_equal(np.float32(rows), expected.reshape(3, -1), err_msg=f"{name} {knowledge}")
        assert set(shown["answers"]) == set(cache.names)
        for knowledge in cache.names:
            assert knowledge in shown["facts"]
        assert f"{cache.views} view" in shown["facts"]
        if "logits" in cache.names:
            p = softmax(cache.read(0, range(len(cache)))["logits"])
            right = p.argmax(1) == cache.labels
            means = [float(value) for value in re.findall(r"([\d.]+) %", shown["told"])]
            np.testing.assert_allclose(means, [100 * p.max(1).mean(), 100 * right.mean()], atol=0.051)
            mine = p[np.arange(len(p)), cache.labels]
            np.testing.assert_allclose(mine[shown["hardest"]], np.sort(mine)[:20], rtol=1e-6)
            label = cache.classes[cache.labels[0]]
            assert shown["words"].startswith(f"Row 0 in view 0 is labelled {label}. The teacher ")


def test_it_reads_parts_of_a_file(tmp_path):
    path = made_cache(tmp_path / "a.h5", 3000, 30, 20, "f32")
    shown = viewed(tmp_path, {"a.h5": path.read_bytes()})["found"]["a.h5"]
    cache = kdcache.read.open_cache(path)
    view = cache.bytes_of_view(["logits"])
    assert shown["most"] <= 1024 * 120
    assert view < shown["read"] < view + 400_000 < path.stat().st_size / 8


def test_of_a_large_view_it_shows_a_part_evenly_spread(tmp_path):
    path = made_cache(tmp_path / "a.h5", 5000, 30, 1, "f32")
    shown = viewed(tmp_path, {"a.h5": path.read_bytes()}, before="limit.bytes = 300_000;")["found"]["a.h5"]
    rows = np.concatenate([np.arange(0, 1024), np.arange(2048, 3072), np.arange(4096, 5000)])
    p = softmax(kdcache.read.open_cache(path).read(0, rows)["logits"])
    assert shown["told"].startswith(
        f"2,952 rows of 5,000, evenly spread: mean confidence {100 * p.max(1).mean():.2f} %"
    )


def damaged(path: Path) -> dict[str, tuple[bytes, str]]:
    """A file with a fault of each kind, and what is to be said of it."""
    data, layout = path.read_bytes(), kdcache.read.open_cache(path).layout

    def flipped(place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    at = {name: place.offset for name, place in layout.places.items()}
    return {
        "record": (flipped(at["knowledge/logits"]), "block 0 of view 0 of /knowledge/logits is damaged"),
        "label": (flipped(at["labels"]), "wrong seal"),
        "meta": (flipped(at["meta"] + 40), "; "),
        "word": (flipped(at["blocks/seeds"] + 4), "unfinished"),
        "superblock": (flipped(30), "wrong checksum"),
        "structure": (flipped(60), "wrong checksum"),
        "cut": (data[:-1], "copy it again"),
        "cut to its head": (data[:100], "copy it again"),
        "longer": (data + b"\0", "copy it again"),
        "empty": (b"", "no HDF5 file"),
        "text": (b"<!doctype html>" * 99, "no HDF5 file"),
    }


def test_a_damaged_file_gives_a_line(tmp_path, files):
    cases = damaged(files["new f16.h5"])
    data, g = bytearray(files["new f16.h5"].read_bytes()), np.random.default_rng(0)
    cases |= {f"flip {n}": (bytes(data[:at]) + bytes([data[at] ^ 4]) + bytes(data[at + 1 :]), "")
              for n, at in enumerate(g.integers(0, 3000, 40))}  # fmt: skip
    found = viewed(tmp_path, {name: data for name, (data, _) in cases.items()})["found"]
    for name, (_, words) in cases.items():
        assert words in found[name]["fault"], name
        assert name.startswith("flip") or found[name]["fault"].startswith(f"{name}: ")
        assert found[name]["hidden"] == (name != "record" and bool(found[name]["fault"]))


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_in_light_and_dark(tmp_path, files, width):
    data = {"a.h5": files["taps.h5"].read_bytes()}
    size = f"--window-size={width},900"
    light, dark = (viewed(tmp_path, data, size, f"--blink-settings=preferredColorScheme={n}") for n in (1, 0))
    assert light["wide"] <= light["seen"]
    assert sum(map(int, re.findall(r"\d+", dark["paper"]))) < 200
    assert sum(map(int, re.findall(r"\d+", light["paper"]))) > 700


def test_it_is_one_file_without_a_network():
    text = PAGE.read_text()
    assert "default-src 'none'" in text
    assert re.findall(r"https?://[^\s\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"\b(src|href)=|import\(|fetch\(|XMLHttpRequest", text)
