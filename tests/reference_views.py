"""What a slow reader of the views' definitions would write, pixel by pixel; and images to try them on."""

import io
import math

import numpy as np
import torch
from PIL import Image

from kdcache.seeds import ERASING, GEOMETRY, draw, keyed, sample_seeds
from kdcache.views.native import GREY, Centre, Crop, Untouched


def made_images(n: int, height: int, width: int, key: int = 0) -> torch.Tensor:
    """Noise over a gradient, the same on every machine."""
    words = keyed(key, np.arange(n * 3 * height * width, dtype=np.int64), use=4)[0]
    ramp = np.arange(height)[:, None] * 160 // height + np.arange(width) * 60 // width
    return torch.from_numpy(((words.reshape(n, 3, height, width) % 36) + ramp).astype(np.uint8))


def picture(height=20, width=16, key=0) -> Image.Image:
    return Image.fromarray(made_images(1, height, width, key)[0].permute(1, 2, 0).numpy())


def encoded(image: Image.Image, kind="JPEG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def made_seeds(n: int, key: int = 0) -> torch.Tensor:
    return torch.from_numpy(sample_seeds(key, np.zeros(n, np.int64), np.arange(n)))


def reference_crop(image, top, left, flip, pad):
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + top - pad, (width - 1 - x if flip else x) + left - pad
            if 0 <= from_y < height and 0 <= from_x < width:
                out[:, y, x] = image[:, from_y, from_x]
    return out


def reference_line(length: int, out: int) -> list[tuple[int, int, int]]:
    """For every place of a line the two places it comes from, and the second one's weight in 1/128."""
    found = []
    for i in range(out):
        centre = math.floor((i + 0.5) * length / out * 128) - 64
        centre = min(max(centre, 0), (length - 1) * 128)
        found.append((centre // 128, min(centre // 128 + 1, length - 1), centre % 128))
    return found


def reference_resize(image, box, flip, size):
    top, left, height, width = box
    image = image[:, top : top + height, left : left + width].astype(int)
    k = min(height // size[0], width // size[1])
    if k > 1:
        image = image[:, height % k // 2 :, width % k // 2 :]
        cells = [
            [image[:, y * k : y * k + k, x * k : x * k + k] for x in range(width // k)] for y in range(height // k)
        ]
        image = np.array([[(c.sum((1, 2)) + k * k // 2) // (k * k) for c in row] for row in cells]).transpose(2, 0, 1)
    rows = [
        ((128 - w) * image[:, a] + w * image[:, b] + 64) // 128 for a, b, w in reference_line(image.shape[1], size[0])
    ]
    down = np.stack(rows, 1)
    line = [
        ((128 - w) * down[:, :, a] + w * down[:, :, b] + 64) // 128
        for a, b, w in reference_line(image.shape[2], size[1])
    ]
    across = np.stack(line, 2)
    return (across[:, :, ::-1] if flip else across).astype(np.uint8)


def reference_box(height: int, width: int, seed: int) -> tuple[int, int, int, int]:
    """Words 4 to 13 of the seed's geometry are ten tries at an area and a ratio; the first two words place the box."""
    words = [int(word[0]) for n in range(4) for word in draw(np.int64([seed]), n, GEOMETRY)]
    h, w, found = min(height, max(1, width * 4 // 3)), min(width, max(1, height * 4 // 3)), False
    for word in words[4:14]:
        area = height * width * (5242 + ((word >> 16) * 60295 >> 16)) / 65536
        ratio = round(65536 * math.exp((((word & 65535) * 1025 >> 16) / 512 - 1) * math.log(4 / 3))) / 65536
        box = math.floor(math.sqrt(area / ratio) + 0.5), math.floor(math.sqrt(area * ratio) + 0.5)
        if 0 < box[0] <= height and 0 < box[1] <= width:
            (h, w), found = box, True
            break
    top, left = ((words[0] * (height - h + 1)) >> 32, (words[1] * (width - w + 1)) >> 32)
    return (top, left, h, w) if found else ((height - h) // 2, (width - w) // 2, h, w)


def reference(view, image: np.ndarray, seed: int) -> np.ndarray:
    seed = np.int64([seed])
    geometry = [int(word[0]) for word in draw(seed, 0, GEOMETRY)]
    if isinstance(view, Untouched):
        return image
    if isinstance(view, Crop):
        side = 2 * view.pad + 1
        top, left, flip = geometry[0] * side >> 32, geometry[1] * side >> 32, geometry[2] >> 31 if view.flip else 0
        out = reference_crop(image, top, left, flip, view.pad)
        if view.cutout:
            y, x = (int(word[0]) * n >> 32 for word, n in zip(draw(seed, 0, ERASING), image.shape[1:], strict=False))
            for a in range(y - view.cutout // 2, y + view.cutout // 2):
                for b in range(x - view.cutout // 2, x + view.cutout // 2):
                    if 0 <= a < image.shape[1] and 0 <= b < image.shape[2]:
                        out[:, a, b] = GREY
        return out
    height, width = image.shape[1:]
    if isinstance(view, Centre):
        side = max(1, min(height, width) * 7 // 8)
        return reference_resize(image, ((height - side) // 2, (width - side) // 2, side, side), 0, view.size)
    return reference_resize(image, reference_box(height, width, int(seed[0])), geometry[2] >> 31, view.size)
