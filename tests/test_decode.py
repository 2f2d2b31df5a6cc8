"""Files become the pixels that Pillow sees in them, or an error that names the file."""

import io
import random

import numpy as np
import pytest
from PIL import Image
from reference_views import encoded, made_images, picture

from kdcache.batches import Loader
from kdcache.errors import SourceError
from kdcache.jobs import Data, estimates, workers_for
from kdcache.sources.decode import check_whole, decode, plain_jpeg

JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "bad": {"quality": 5},
    "best": {"quality": 100, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 50)])
@pytest.mark.parametrize("kind", JPEGS)
def test_the_fast_decoder_and_pillow_agree(kind, size):
    for image in (picture(*size), picture(*size).convert("L")):
        if kind == "rgb" and image.mode == "L":
            continue
        data = encoded(
            image, quality=JPEGS[kind].get("quality", 80), **{k: v for k, v in JPEGS[kind].items() if k != "quality"}
        )
        assert plain_jpeg(data)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(decode("x.jpg", data), expected)


def noisy(mode: str) -> Image.Image:
    return picture().convert(mode)


def transparent_palette() -> bytes:
    return encoded(picture().quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), exif=exif)


OTHERS = {
    "cmyk.jpg": encoded(noisy("CMYK")),
    "palette.png": encoded(picture().quantize(16), "PNG"),
    "rgba.png": encoded(noisy("RGBA"), "PNG"),
    "la.png": encoded(noisy("LA"), "PNG"),
    "1bit.png": encoded(noisy("1"), "PNG"),
    "grey.png": encoded(noisy("L"), "PNG"),
    "trns.png": encoded(picture(), "PNG", transparency=(1, 2, 3)),
    "grey-trns.png": encoded(noisy("L"), "PNG", transparency=7),
    "exif.jpg": rotated(),
    "png named.jpg": encoded(picture(), "PNG"),
    "tail.jpg": encoded(picture()) + b"more after the end",
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_file_is_read_as_pillow_reads_it(name):
    data = OTHERS[name]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode(name, data), expected)
    check_whole(name, data)


def test_orientation_is_not_applied():
    assert decode("exif.jpg", rotated()).shape == (3, 20, 16)


def test_a_palette_with_transparency_is_read_without_a_warning():
    expected = np.asarray(picture().quantize(16).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decode("x.png", transparent_palette()), expected)


def test_of_16_bits_the_upper_8_are_kept():
    deep = made_images(1, 20, 16)[0, 0].numpy().astype(np.uint16) * 256 + 77
    data = encoded(Image.fromarray(deep), "PNG")
    assert np.array_equal(decode("x.png", data), np.repeat((deep >> 8).astype(np.uint8)[None], 3, 0))


# what can be wrong with a file

JPEG, PNG = encoded(picture(60, 50)), encoded(picture(60, 50), "PNG")
WRONG = {
    "empty.jpg": b"",
    "text.jpg": b"I am no image\n" * 40,
    "zeros.png": bytes(300),
    "gif.png": encoded(picture(), "GIF"),
    "head only.jpg": JPEG[:2],
    "cut.png": PNG[: len(PNG) // 2],
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "end missing.png": PNG[:-60],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_whole_image_is_named(tmp_path, name):
    for action in (decode, check_whole):
        with pytest.raises(SourceError, match="expected a whole JPEG, PNG or WebP image, found") as caught:
            action(name, WRONG[name])
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)


def test_a_jpeg_cut_off_anywhere_is_refused():
    for length in range(0, len(JPEG) - 30, 97):
        with pytest.raises(SourceError):
            decode("x.jpg", JPEG[:length])
        with pytest.raises(SourceError):
            check_whole("x.jpg", JPEG[:length])


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
def test_damage_gives_pixels_or_a_clear_error(data):
    rng = random.Random(0)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged) if rng.random() < 0.5 else 60)] = rng.randrange(256)
        for action in (decode, check_whole):
            try:
                action("x", bytes(damaged))
            except SourceError:
                continue  # any other exception would come through


def test_a_decompression_bomb_is_refused():
    header = JPEG.index(b"\xff\xc0")
    for height, width in ((65000, 65000), (20000, 20000)):
        bomb = JPEG[: header + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + JPEG[header + 9 :]
        assert not plain_jpeg(bomb)
        with pytest.raises(SourceError, match="decompression bomb"):
            decode("x.jpg", bomb)


def test_plan_decodes_with_as_many_workers_as_the_dump_will(pictures, monkeypatch):
    seen = []
    monkeypatch.setattr(estimates, "Loader", lambda *given: seen.append(given[4]) or Loader(*given))
    monkeypatch.setattr(estimates, "SECONDS", 0.1)
    data = Data.open(f"folder:{pictures}", "resized-crop:16")
    asked = {"teacher": "tiny-3", "views": 1, "method": "st", "codec": "f16", "epochs": 1, "students": 1, "batch": 16}
    estimates.plan(data, pictures / "x.h5", "cpu", **asked, dtype="f32", channels_last=False)
    assert seen == [workers_for(data, None)] != [0]
