"""JPEG, PNG and WebP files as pixels. Whatever is wrong with a file, the error names it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np

from kdcache.errors import SourceError
from kdcache.limits import LIMITS, limit, read_bytes

FORMATS = "JPEG, PNG or WebP"
PACKAGES = ("opencv-python-headless", "pillow")
LARGEST = 50_000_000  # pixels; what claims more is left to Pillow, and to the bound on it


def file_bytes(path: str) -> bytes:
    try:
        return read_bytes(path, limit("KDCACHE_MAX_IMAGE_BYTES"))
    except OSError as error:
        raise SourceError(path, "a readable image", error.strerror or str(error), "replace or remove it") from None


def decode(path: str, data: bytes) -> np.ndarray:
    """RGB uint8 [3, h, w], the pixels as they are stored: no orientation applied, transparency dropped."""
    if plain_jpeg(data, min(LARGEST, limit("KDCACHE_MAX_PIXELS"))):
        import cv2  # the same pixels as Pillow's, in a third of the time and without Python's lock

        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            planes = np.empty((3, *pixels.shape[:2]), np.uint8)
            cv2.split(pixels, [*planes[::-1]])
            return planes
    with opened(path, data) as image:
        if image.mode.startswith("I"):  # 16 bits, of which Pillow's RGB would keep the lower 8
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[None], 3, 0)
        # a palette by way of RGBA: Pillow warns where RGB would drop its transparency
        rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
        return np.asarray(rgb).transpose(2, 0, 1).copy()


def plain_jpeg(data: bytes, most: int = LARGEST) -> bool:
    """Whether it is a whole JPEG, grey or coloured: OpenCV fills in what a cut-off one lacks, and has its own CMYK."""
    at, whole = 2, data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"
    while whole and at + 10 < len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xC0, 0xC1, 0xC2):  # the header of a frame: bits, height, width, channels
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return data[at + 4] == 8 and data[at + 9] in (1, 3) and height * width <= most
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def check_whole(path: str, data: bytes) -> None:
    """Refuses what cannot be decoded to its end; JPEG at 1/8 of its size, which still reads all of it."""
    with opened(path, data) as image:
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


def size_of(path: str, data: bytes) -> tuple[int, int]:
    """Height and width, from the header."""
    with opened(path, data) as image:
        return image.height, image.width


@contextlib.contextmanager
def opened(path: str, data: bytes) -> Iterator:
    """Pillow's image, whose size is looked at before its pixels; whatever its decoders may raise names the file."""
    from PIL import Image, UnidentifiedImageError

    most = limit("KDCACHE_MAX_PIXELS")
    if most > LIMITS["KDCACHE_MAX_PIXELS"]:
        Image.MAX_IMAGE_PIXELS = most  # its own bound, from which on it would warn and then refuse
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > most:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels, perhaps a decompression bomb"
                )
            yield image
    except Image.DecompressionBombError as error:
        remedy = "remove it, or set KDCACHE_MAX_PIXELS higher"
        raise SourceError(path, f"an image of at most {most:,} pixels", str(error), remedy) from None
    except Exception as error:
        found = "no image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise SourceError(path, f"a whole {FORMATS} image", found, "replace or remove it") from None
