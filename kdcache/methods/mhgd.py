"""How a batch's images relate from stage to stage, seen by an attention that learned it from the teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import TeacherError, UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import stored
from kdcache.methods.svd import NAMES, TAPS, both_sides, project, projected, same_channels

PLACE = "method mhgd"
HEADS = 8
BATCH = 128
PASSES = 40
RELATIONS = {"f2": ("svd.f2", "svd.f1"), "f3": ("svd.f3", "svd.f2")}  # later and earlier stage
SIDES = ("senders", "receivers")


class Graph(Method):
    """Σ over relations, heads and rows of KL(softmax tanh G_student ‖ softmax tanh G_teacher), clipped as KD-SVD.

    G[h] = S_h R_hᵀ [B, B] compares every image at one stage with every image at the stage before. `prepare` trains the
    attention on the teacher's cached vectors, `passes` times over; only its two linear maps are kept, with their batch
    norms folded in. The graph spans the batch and its sum grows with B²: keep to the author's 128.
    """

    paper = "MHGD, Lee & Song 2019, Graph-based Knowledge Distillation by Multi-head Attention Network"
    term = "mhgd"
    taps = TAPS
    batch_matters = True
    clips_to_ce = True
    clipped = frozenset({"mhgd"})

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        passes: int = PASSES,
        seed: int = 0,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        same_channels(PLACE, student, teacher)
        self.weight, self.passes, self.seed = weight, passes, seed
        unusual = [f"passes{passes}"] * (passes != PASSES) + [f"seed{seed}"] * bool(seed)
        self.name = "mhgd" + ("@" + "-".join(unusual) if unusual else "")

    def project(self, look):
        return project(look)

    def projected(self, shapes):
        return projected(shapes)

    def made_before(self):
        sides = [f"{self.name}.{later}.{side}" for later in RELATIONS for side in SIDES]
        return [f"{side}.{part}" for side in sides for part in ("weight", "bias")]

    def prepare(self, teacher, looks):
        rows = [project(look) for look in looks()]
        if sum(len(row["svd.f1"]) for row in rows) < 2:
            raise UsageError(PLACE, "at least 2 images", "fewer", "show it the training images")
        with torch.inference_mode(False), torch.enable_grad():
            vectors = {name: torch.cat([row[name] for row in rows]).float() for name in NAMES}
            with torch.autocast(vectors["svd.f1"].device.type, enabled=False):
                relations = train(vectors, self.passes, self.seed)
        constants = folded(relations)
        if not all(constant.isfinite().all() for constant in constants.values()):
            raise TeacherError(PLACE, "an attention that learns", "NaN", "check the teacher's feature maps")
        return {f"{self.name}.{name}": constant.detach().cpu() for name, constant in constants.items()}

    def use(self, constants):
        for later in RELATIONS:
            for side in SIDES:
                for part in ("weight", "bias"):  # buffers: they follow the method to its device, no optimiser sees them
                    value = stored(PLACE, constants, f"{self.name}.{later}.{side}.{part}")
                    self.register_buffer(f"{later}_{side}_{part}", value, persistent=False)

    def terms(self, look, knowledge, batch):
        if not hasattr(self, "f2_senders_weight"):
            raise UsageError(PLACE, "a trained attention", "none", "call use(prepare(teacher, looks)) first")
        total = 0.0
        mine, theirs = (dict(zip(NAMES, vectors, strict=True)) for vectors in both_sides(look, knowledge))
        for later in RELATIONS:
            p, q = self.log_graph(later, mine), self.log_graph(later, theirs)
            total = total + (p.exp() * (p - q)).sum()
        return {"mhgd": self.weight * total}

    def log_graph(self, later: str, vectors: dict[str, Tensor]) -> Tensor:
        """Log-probabilities [heads, B, B]: for each image at the later stage, over the images at the earlier one."""
        ends = []
        for side, name in zip(SIDES, RELATIONS[later], strict=True):
            weight, bias = (getattr(self, f"{later}_{side}_{part}").to(vectors[name]) for part in ("weight", "bias"))
            ends.append(F.linear(vectors[name], weight, bias))
        return graph(*ends).tanh().log_softmax(2)


def graph(senders: Tensor, receivers: Tensor) -> Tensor:
    """[B, D·heads] twice to [heads, B, B]; the heads vary fastest, and nothing divides by √D."""
    s, r = (side.unflatten(1, (-1, HEADS)).permute(2, 0, 1) for side in (senders, receivers))
    return s @ r.mT


def folded(relations: nn.ModuleDict) -> dict[str, Tensor]:
    """What is kept of the attention: a weight and a bias for each side of each relation."""
    constants: dict[str, Tensor] = {}
    for later, relation in relations.items():
        for side in SIDES:
            weight, bias = getattr(relation, side).folded()
            constants |= {f"{later}.{side}.weight": weight, f"{later}.{side}.bias": bias}
    return constants


def train(vectors: dict[str, Tensor], passes: int, seed: int) -> nn.ModuleDict:
    """Stage 1 of the author: each relation learns to estimate a stage's vectors from the stage before."""
    generator = torch.Generator().manual_seed(seed)
    some = vectors["svd.f1"]
    relations = nn.ModuleDict()
    for later, (after, before) in RELATIONS.items():
        relations[later] = Relation(vectors[before].shape[1], vectors[after].shape[1], generator)
    relations.to(some.device).train()
    # the author adds 5e-4 Σ w² without a half, over every parameter
    optimiser = torch.optim.SGD(relations.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    size = min(BATCH, len(some))
    for _ in range(passes):
        order = torch.randperm(len(some), generator=generator).to(some.device)
        for rows in order[: len(order) // size * size].split(size):
            loss = some.new_zeros(())
            for later, (after, before) in RELATIONS.items():
                noise = torch.randn(HEADS, size, 1, generator=generator).to(some.device)
                guess = relations[later](vectors[before][rows], vectors[after][rows], noise)
                loss = loss + (1 - (guess * vectors[after][rows]).sum(1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return relations


class Relation(nn.Module):
    """The attention of two stages, and the estimator that it is trained with and that is dropped afterwards."""

    def __init__(self, before: int, after: int, generator: torch.Generator):
        super().__init__()
        width = (before + after) // 2
        self.senders = Normed(after, width * HEADS, generator)
        self.receivers = Normed(before, width * HEADS, generator)
        self.hidden = Normed(before, width, generator)
        self.weight, self.bias = drawn(width * HEADS, after, generator), nn.Parameter(torch.zeros(after))

    def forward(self, before: Tensor, after: Tensor, noise: Tensor) -> Tensor:
        """The estimate of `after`, length 1. Each row drops the heads whose noise is below the mean, unscaled."""
        attention = graph(self.senders(after), self.receivers(before)).softmax(2) * (noise > noise.mean(0))
        heads = attention @ self.hidden(before).relu()
        return F.normalize(F.linear(heads.transpose(0, 1).flatten(1), self.weight, self.bias))


class Normed(nn.Module):
    """A linear map without bias, then batch norm."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.weight, self.norm = drawn(inputs, outputs, generator), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.linear(x, self.weight))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear map that this is in inference mode."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        gain = self.norm.weight / (variance + self.norm.eps).sqrt()
        return gain[:, None] * self.weight, self.norm.bias - gain * mean


def drawn(inputs: int, outputs: int, generator: torch.Generator) -> nn.Parameter:
    """He's init by the number of outputs, as the author's, from a generator of our own."""
    return nn.Parameter(torch.randn(outputs, inputs, generator=generator) * (2 / outputs) ** 0.5)
