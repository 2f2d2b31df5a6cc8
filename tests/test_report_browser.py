"""The page in a browser: in both colour schemes, on a phone, printed. It skips where there is no Chromium."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser_cases import CHROMIUM, WATCHED, chromium
from PIL import Image
from report_cases import study

from kdcache import jobs

ASKED = """<script>addEventListener("load", () => {
  const head = document.querySelector("table.sorted th:nth-child(2) button");
  head.click();
  const column = () => [...document.querySelectorAll("table.sorted tbody")][0].rows;
  const values = [...column()].map((row) => Number(row.cells[1].dataset.v));
  const chart = document.querySelector("svg.lines"), box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 9 }));
  document.title = JSON.stringify({ wide: document.documentElement.scrollWidth, seen: innerWidth, values, faults,
    tip: document.getElementById("tip").innerText, paper: getComputedStyle(document.body).backgroundColor });
});</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


@pytest.fixture
def page(tmp_path) -> Path:
    out = tmp_path / "report.html"
    jobs.report([str(study(tmp_path / "runs"))], str(out))
    return out


def asked(tmp_path: Path, page: Path, width: int, *options: str) -> dict:
    """What the page says of itself, once it is there and its script was used."""
    copy = page.with_name("asked.html")
    copy.write_text(page.read_text().replace("<head>", f"<head>{WATCHED}").replace("</body>", f"{ASKED}</body>"))
    text = chromium(tmp_path, copy, "--dump-dom", f"--window-size={width},900", *options)
    return json.loads(re.search(r"<title>(.*?)</title>", text)[1])


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_is_sorted_and_tells_values(tmp_path, page, width):
    found = asked(tmp_path, page, width)
    assert found["faults"] == []
    assert found["wide"] <= found["seen"]
    assert found["values"] == sorted(found["values"], reverse=True)
    assert "epoch 2" in found["tip"]
    assert "st" in found["tip"]


def test_it_is_dark_where_that_is_wanted(tmp_path, page):
    dark = asked(tmp_path, page, 1280, "--blink-settings=preferredColorScheme=0")["paper"]
    light = asked(tmp_path, page, 1280)["paper"]
    assert sum(map(int, re.findall(r"\d+", dark))) < 200
    assert sum(map(int, re.findall(r"\d+", light))) > 700


def test_it_is_drawn(tmp_path, page):
    """In colours, not as an empty sheet."""
    picture = tmp_path / "page.png"
    chromium(tmp_path, page, f"--screenshot={picture}", "--window-size=1280,2400", "--hide-scrollbars")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    coloured = (pixels.max(1) - pixels.min(1) > 60).mean()
    assert 0.003 < coloured < 0.5


def test_it_is_printed_on_a_few_pages(tmp_path, page):
    chromium(tmp_path, page, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert 2 <= len(pages) <= 9
