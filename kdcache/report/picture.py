"""A picture inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.limits import read_bytes

MOST_READ = 1 << 28  # bytes of a picture that is looked at
MOST = 240_000  # bytes of it in the page
QUALITIES = (88, 75, 60)


def embedded(path: Path) -> str:
    """The picture as a `data:` address; a large one is made smaller first."""
    try:
        content = read_bytes(path, MOST_READ)
    except OSError as error:
        raise UsageError(path, "a picture to show", error.strerror or str(error), "check the path") from None
    if not content.startswith(b"\x89PNG"):
        raise UsageError(path, "a PNG picture", "something else", "name what `kdcache show` has drawn")
    if len(content) > MOST:
        return address("jpeg", shrunk(path, content))
    return address("png", content)


def address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shrunk(path: Path, content: bytes) -> bytes:
    """As JPEG, and as small as it takes."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, ValueError) as error:
        raise UsageError(path, "a PNG picture", str(error), "draw it again with `kdcache show`") from None
    while True:
        for quality in QUALITIES:
            written = io.BytesIO()
            picture.save(written, "JPEG", quality=quality, optimize=True)
            if written.tell() <= MOST:
                return written.getvalue()
        picture = picture.resize(
            (max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)), Image.Resampling.LANCZOS
        )
