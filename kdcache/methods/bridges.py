"""Where the shapes of teacher and student differ: bridged as the references do, or refused with both shapes named."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.checks import constant, times
from kdcache.types import Knowledge, Look, Shapes

EPS = 1e-12  # below this a vector has no direction


def row_shape(place: str, whose: str, shapes: Shapes | None, *names: str) -> tuple[int, ...]:
    """The shape of one row under the first of these names that is there."""
    for name in names:
        if shapes is not None and name in shapes:
            return tuple(shapes[name])
    found = "no shapes" if shapes is None else ", ".join(shapes) or "an empty table"
    remedy = f"build it with {whose}=shapes"
    if shapes:
        tap = names[-1].partition(".")[0]
        remedy = f"name the module that shows it among the taps of the {whose}, as {tap}=PATH"
    raise UsageError(place, f"the {whose}'s shape of {' or '.join(names)}", found, remedy)


def map_shape(place: str, whose: str, shapes: Shapes | None, *names: str) -> tuple[int, ...]:
    """The same of a map, [C, h, w]."""
    shape = row_shape(place, whose, shapes, *names)
    if len(shape) != 3:
        raise UsageError(place, f"a map of the {whose} at {names[-1]}", times(shape), "name a stage, such as f2.raw")
    return shape


def known_shape(shapes: Shapes | None, *names: str) -> tuple[int, ...] | None:
    """Like row_shape, for methods that can also wait until they see the tensors."""
    return next((tuple(shapes[name]) for name in names if name in shapes), None) if shapes else None


def refuse(place: str, expected: str, student, teacher, remedy: str):
    """Two shapes that nothing bridges."""
    raise UsageError(place, expected, f"student {times(student)} and teacher {times(teacher)}", remedy)


def stored(place: str, kept: Mapping[str, Tensor], *names: str) -> Tensor:
    """The knowledge or constant under the first of these names that is there."""
    for name in names:
        if name in kept:
            return constant(kept[name])
    found = ", ".join(kept) or "nothing"
    raise UsageError(place, " or ".join(names), found, "dump the knowledge of this method with the same options")


def last_layer(place: str, teacher: nn.Module, remedy: str) -> nn.Linear:
    """The linear layer that makes the teacher's logits: the one that it knows as such, else its last one."""
    known = getattr(teacher, "classifier", None)
    layers = [module for module in teacher.modules() if isinstance(module, nn.Linear)]
    found = known if getattr(known, "weight", None) is not None else layers[-1] if layers else None
    if found is None or found.weight.ndim != 2:
        raise UsageError(place, "a teacher that ends in a linear layer", "none in it", remedy)
    return found


def tap_pair(look: Look, knowledge: Knowledge, tap: str, name: str | None = None) -> tuple[Tensor, Tensor]:
    """The student's tap and the teacher's answer to it, of the same type."""
    student = look[tap]
    return student, knowledge[name or tap].to(student)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Vectors of length 1; one without a direction becomes 0 and gets no gradient, where a division would explode."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return torch.where(norm > EPS, x / norm.clamp(min=EPS), torch.zeros_like(x))


def average(x: Tensor, size) -> Tensor:
    """Average-pooled to a grid, unchanged where it has it."""
    return x if x.shape[-2:] == tuple(size) else F.adaptive_avg_pool2d(x, tuple(size))


def on_smaller_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps on the smaller of the two grids."""
    size = [min(a, b) for a, b in zip(student.shape[-2:], teacher.shape[-2:], strict=True)]
    return average(student, size), average(teacher, size)


def stage_weight(stage: int, stages: int) -> float:
    """1 for the deepest stage, halved for each one above it."""
    return 2.0 ** (stage + 1 - stages)


class ConvNorm(nn.Module):
    """A convolution, batch statistics, perhaps an activation."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, act: nn.Module | None = None):
        super().__init__()
        self.conv, self.norm, self.act = conv, nn.BatchNorm2d(conv.out_channels), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training and x.numel() == x.shape[1]:
            raise UsageError("connector", "several values per channel", "one", "use a batch size above 1")
        x = self.norm(x)
        return x if self.act is None else self.act(x)


def he(conv: nn.Conv2d) -> nn.Conv2d:
    """He's initialisation by the number of inputs, cut at two standard deviations, as TensorFlow draws it."""
    std = math.sqrt(2 / (conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1])) / 0.87962566103423978
    nn.init.trunc_normal_(conv.weight, 0, std, -2 * std, 2 * std)
    return conv


def widen(student: int, teacher: int, act: nn.Module | None = None) -> ConvNorm:
    """The connector of AB, CO and SRRL: a 1x1 convolution without bias, drawn from N(0, 2/C)."""
    connector = ConvNorm(nn.Conv2d(student, teacher, 1, bias=False), act)
    nn.init.normal_(connector.conv.weight, 0, math.sqrt(2 / teacher))
    return connector


def bare_regressor(place: str, student, teacher) -> nn.Conv2d:
    """lenscloth's regressor, which leaves the grid as it is."""
    if student[1:] != teacher[1:]:
        refuse(place, "equal grids", student, teacher, "take fitnet, which has connectors for them")
    conv = nn.Conv2d(student[0], teacher[0], 1, bias=False)
    nn.init.uniform_(conv.weight, -0.005, 0.005)
    return conv


def regressor(place: str, student, teacher, relu: bool) -> ConvNorm:
    """RepDistiller's regressor from one row shape to another; its convolution depends on the ratio of the grids."""
    if len(student) != 3 or len(teacher) != 3:
        refuse(place, "maps", student, teacher, "name a stage, such as f2.raw")
    (c, h, w), (to_c, to_h, to_w) = student, teacher
    if (h, w) == (2 * to_h, 2 * to_w):
        conv = nn.Conv2d(c, to_c, 3, stride=2, padding=1)
    elif (2 * h, 2 * w) == (to_h, to_w):
        conv = nn.ConvTranspose2d(c, to_c, 4, stride=2, padding=1)
    elif h >= to_h and w >= to_w:
        conv = nn.Conv2d(c, to_c, (1 + h - to_h, 1 + w - to_w))
    else:
        refuse(place, "a student's map that is larger, equal or half as large", student, teacher, "take other networks")
    return ConvNorm(conv, nn.ReLU() if relu else None)
