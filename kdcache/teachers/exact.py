"""On a CPU, the answer to an image does not depend on the images beside it.

How a library cuts a computation up, and so how it rounds, depends on the number of rows, on a row's place among them,
and on where it begins in memory. So a network sees the same number of images at any time, and the matrices that it
multiplies begin and end where vectors do. What is left depends on the kernels: `exactness` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.seeds import permutation
from kdcache.types import Look

ROWS = 32  # images at a time: few enough for their activations to stay in a processor's caches
FEWEST = 16  # on other devices: with fewer, libraries leave the paths on which a row's rounding is its own
VECTOR = 16  # numbers: 64 bytes of f32
OTHER_SIZES = (1, 3, 17)  # of the batches that `exactness` asks in, beside one of all rows and one of the remaining

aten = torch.ops.aten


def in_chunks(images: Tensor, rows: int) -> Iterator[Tensor]:
    """The images, so many at a time; the last ones in company of the first of them again."""
    for chunk in images.split(rows):
        yield in_company(chunk, rows)


def in_company(images: Tensor, least: int = FEWEST) -> Tensor:
    """The images, with the first of them repeated where they are fewer."""
    missing = least - len(images)
    return images if missing <= 0 else torch.cat([images, images[:1].expand(missing, *images.shape[1:])])


class AlignedProducts(TorchDispatchMode):
    """Matrices are multiplied with zeros around them, so that each row begins at a multiple of 64 bytes.

    A library takes other instructions where a row begins elsewhere, and those add in another order: without this,
    with 5, 6 or 7 features, a row's rounding depends on its place.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here; to see to that itself, torch imports its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        product = PRODUCTS.get(function)
        return product(function, *args, **(kwargs or {})) if product else function(*args, **(kwargs or {}))


def padded(tensor: Tensor, *dims: int) -> Tensor:
    """Zeros up to a multiple of VECTOR in these of the last two dimensions."""
    across, down = (-tensor.shape[dim] % VECTOR if dim in dims else 0 for dim in (-1, -2))
    return F.pad(tensor, (0, across, 0, down)) if across or down else tensor


def multiplied(product, a: Tensor, b: Tensor) -> Tensor:
    """Of `mm` and `bmm`."""
    width = b.shape[-1]
    return cut(product(padded(a, -1), padded(b, -1, -2)), width)


def multiplied_and_added(product, bias: Tensor, a: Tensor, b: Tensor, **scales) -> Tensor:
    """Of `addmm` and `baddbmm`."""
    width = b.shape[-1]
    if bias.shape[-1] == width:
        bias = F.pad(bias, (0, -width % VECTOR))
    return cut(product(bias, padded(a, -1), padded(b, -1, -2), **scales), width)


def multiplied_by_vector(_, a: Tensor, b: Tensor) -> Tensor:
    return aten.mm(padded(a, -1), padded(b[:, None], -1, -2))[:, 0].contiguous()


def attended(attention, query: Tensor, key: Tensor, value: Tensor, *options, scale: float | None = None, **more):
    """Scaled dot-product attention, in one kernel."""
    width = value.shape[-1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    answer, *rest = attention(*(padded(each, -1) for each in (query, key, value)), *options, scale=scale, **more)
    return (cut(answer, width), *rest)


def cut(product: Tensor, width: int) -> Tensor:
    return product if product.shape[-1] == width else product[..., :width].contiguous()


PRODUCTS = {
    aten.mm.default: multiplied,
    aten.bmm.default: multiplied,
    aten.addmm.default: multiplied_and_added,
    aten.baddbmm.default: multiplied_and_added,
    aten.mv.default: multiplied_by_vector,
    aten._scaled_dot_product_flash_attention_for_cpu.default: attended,
}
"""What PyTorch makes of linear layers, matmul, einsum and attention."""


def exactness(ask: Callable[[Tensor], Look], images: Tensor) -> dict:
    """Whether images get the same answers in another order and in batches of other sizes; else the largest differences.

    >>> exactness(lambda images: {"logits": images * 2}, torch.rand(64, 10))
    {'rows': 64, 'exact': True}
    """
    order = permutation(len(images), 0)
    asked = [order, *np.split(order[::-1], np.cumsum(OTHER_SIZES))]
    whole, exact, absolute, relative = ask(images), True, 0.0, 0.0
    for rows in (torch.from_numpy(rows.copy()) for rows in asked if len(rows)):
        for name, value in ask(images[rows]).items():
            exact &= torch.equal(value, whole[name][rows])
            apart = float((value - whole[name][rows]).abs().max())
            absolute = max(absolute, apart)
            relative = max(relative, apart / (float(whole[name].abs().max()) or 1.0))
    return {"rows": len(images), "exact": exact} | ({} if exact else {"absolute": absolute, "relative": relative})
