"""What a row says is told by how it differs from many others, which are kept from step to step: CRD and a queue.

Both keep tensors by the rows of the data, so that a training tells them of its rows first (`meet`); they change after
a step alone (`stepped`), and are saved with the run.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.bridges import unit
from kdcache.methods.embedding import embeddings, widths
from kdcache.methods.response import above_zero
from kdcache.types import Batch

CRD_EPS = 1e-7  # the author's, in both ratios
NO_ROWS = ("as many rows as the data has", "none", "call `meet` with the labels of all rows before the first loss")


class Contrastive(Method):
    """Own row against rows of other classes: each network's embedding is scored by a bank of the other's.

    Both embeddings are mapped to 128 numbers by maps that are learnt. The banks hold, of every row, a running mean
    of what it was mapped to: 1 KB a row. Negatives are drawn without repetition where there are enough; rows without
    a label are of no class. A step takes B·N numbers for each bank. `crd/nolabel` draws from all rows. Beside soft
    targets the authors have all of both: `st:1:ce=1+crd`.
    """

    paper = "CRD, Tian, Krishnan & Isola 2020, Contrastive Representation Distillation"
    taps = ("emb",)
    term = "crd"
    one_label = remembers = True
    batch_matters = True
    mine_kept: Tensor
    theirs_kept: Tensor
    total: Tensor
    labels: Tensor
    variants: ClassVar = {"nolabel": {"classes": False}}

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 0.8,
        negatives: int = 16384,
        T: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        classes: bool = True,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        mine, theirs = widths("crd", student, teacher)
        if not negatives or not width or momentum >= 1:
            found = f"negatives={negatives}, width={width}, momentum={momentum}"
            raise UsageError("method crd", "1 negative, 1 number or more, a momentum below 1", found, "leave them out")
        self.weight, self.negatives, self.T, self.momentum = weight, negatives, above_zero("T", T), momentum
        self.width, self.classes = width, classes
        self.mine, self.theirs = nn.Linear(mine, width), nn.Linear(theirs, width)
        self.seed = int(torch.randint(2**62, ()))  # of the banks, and of the draws
        self.after: tuple[np.ndarray, Tensor, Tensor, Tensor] | None = None

    def held(self, rows):
        return 2 * 4 * rows * self.width

    def meet(self, labels):
        like, generator = self.mine.weight, torch.Generator().manual_seed(self.seed)
        bound = math.sqrt(3 / self.width)
        for name in ("mine_kept", "theirs_kept"):
            drawn = torch.rand(len(labels), self.width, generator=generator)
            self.register_buffer(name, (bound * (2 * drawn - 1)).to(like.detach()))
        self.register_buffer("total", like.new_zeros(2).detach())  # by which scores are divided; 0: not yet known
        self.known = False  # whether those are known; asking them would make a GPU wait
        told_apart = self.classes and len(labels.unique()) > 1
        labels = (labels if told_apart else torch.full_like(labels, -1)).to(like.device)
        self.register_buffer("labels", labels, persistent=False)
        known = self.labels[self.labels >= 0]
        self.largest = int(known.bincount().max()) if len(known) else 0

    def terms(self, look, knowledge, batch):
        if not hasattr(self, "total"):
            raise UsageError("method crd", *NO_ROWS)
        mine, theirs = embeddings(look, knowledge)
        mine, theirs = unit(self.mine(mine)), unit(self.theirs(theirs))
        own, others = torch.from_numpy(batch.rows).to(mine.device), self.drawn(batch)
        sides = (mine / self.T, self.theirs_kept), (theirs / self.T, self.mine_kept)
        both = [scores(*side, own, others) for side in sides]
        total = torch.stack([self.divisor(number, *found) for number, found in enumerate(both)])
        self.after = (batch.rows, mine.detach(), theirs.detach(), total)
        return {"crd": self.weight * sum(self.mistaken(*found, z) for found, z in zip(both, total, strict=True))}

    @torch.no_grad()
    def divisor(self, number: int, own: Tensor, others: Tensor) -> Tensor:
        """That of the first batch: as many times the mean score as there are rows."""
        if not self.known:
            self.known = bool(self.total[number] > 0)
        if self.known:
            return self.total[number]
        return len(self.labels) * torch.cat([own, others], 1).exp().mean()

    def mistaken(self, own: Tensor, others: Tensor, z: Tensor) -> Tensor:
        """How little the own score of each row is told from noise, and the others are taken for noise; the sum."""
        noise = self.negatives / len(self.labels)
        own, others = (own - z.log()).exp(), (others - (noise * z).log()).exp()
        return ((others + CRD_EPS / noise).log1p().sum() - (own / (own + noise + CRD_EPS)).log().sum()) / len(own)

    @torch.no_grad()
    def drawn(self, batch: Batch) -> Tensor:
        """Of each row the numbers of its negatives: a window of one order of all rows, less its class.

        They depend on the seed, the epoch and the batch, so that a loss can be asked for again.
        """
        device, n = self.labels.device, len(self.labels)
        random = np.random.default_rng([self.seed, batch.epoch or 0, int(batch.items[0])])
        order = torch.from_numpy(random.permutation(n)).to(device)
        starts = torch.from_numpy(random.integers(n, size=len(batch))).to(device)
        length = min(n, self.negatives + self.largest)
        order = torch.cat([order, order[:length]])
        window, labels = (each.unfold(0, length, 1)[starts] for each in (order, self.labels[order]))
        mine = self.labels[torch.from_numpy(batch.rows).to(device)][:, None]
        other = (labels != mine) | (mine < 0)
        place = (other.cumsum(1) - 1).where(other, length)  # what is of its class goes behind all, and is cut off
        found = torch.zeros(len(batch), length + 1, dtype=torch.int64, device=device).scatter_(1, place, window)
        if n >= self.negatives + self.largest:  # enough of other classes
            return found[:, : self.negatives]
        again = torch.arange(self.negatives, device=device) % other.sum(1, keepdim=True)
        return found.gather(1, again)

    @torch.no_grad()
    def stepped(self):
        if self.after is None:
            return
        rows, *mapped, total = self.after
        _, last = np.unique(rows[::-1], return_index=True)
        last = torch.from_numpy(len(rows) - 1 - last)  # of a row that came twice, what it came to last
        rows = torch.from_numpy(rows)[last].to(total.device)
        for bank, new in zip((self.mine_kept, self.theirs_kept), mapped, strict=True):
            bank[rows] = unit(self.momentum * bank[rows] + (1 - self.momentum) * new[last.to(total.device)])
        self.total.copy_(total)
        self.after = None


def scores(mapped: Tensor, bank: Tensor, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row with its own row of a bank, and with others of it."""
    return (mapped * bank[own]).sum(1, keepdim=True), (mapped @ bank.T).gather(1, others)


class Queue(Method):
    """Which of the teacher's last embeddings an image is like: softmax of cosines, the student's against the teacher's.

    It is compared with what the teacher says of itself and of the `size` rows before its batch; at first, those are
    random directions. No label is read. The student's embedding goes through a linear map to the teacher's width.
    The authors' keeps 65536 rows, maps by two layers, and has no cross-entropy (`queue:size=65536:ce=0`).
    """

    paper = "SEED, Fang et al. 2021, Self-supervised Distillation for Visual Representation"
    taps = ("emb",)
    term = "queue"
    remembers = True
    kept: Tensor
    seen: Tensor

    def __init__(
        self,
        student=None,
        teacher=None,
        *,
        weight: float = 1.0,
        size: int = 16384,
        T: float = 0.2,
        teacher_T: float = 0.01,
        ce: float | None = None,
    ):
        super().__init__(student, teacher, ce=ce)
        mine, self.width = widths("queue", student, teacher)
        self.weight, self.size, self.T = weight, size, above_zero("T", T)
        self.teacher_T = above_zero("teacher_T", teacher_T)
        self.connector = nn.Linear(mine, self.width)
        self.seed = int(torch.randint(2**62, ()))  # of the first directions
        self.after: Tensor | None = None

    def held(self, rows):
        return 4 * min(self.size, rows) * self.width

    def meet(self, labels):
        like, generator = self.connector.weight.detach(), torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(min(self.size, len(labels)), self.width, generator=generator)
        self.register_buffer("kept", unit(drawn.to(like)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64, device=like.device))  # rows so far

    def terms(self, look, knowledge, batch):
        if not hasattr(self, "kept"):
            raise UsageError("method queue", *NO_ROWS)
        mine, theirs = embeddings(look, knowledge)
        mine, theirs = unit(self.connector(mine)), unit(theirs)
        self.after = theirs
        said, says = (
            torch.cat([(side * theirs).sum(1, keepdim=True), side @ self.kept.T], 1) / T
            for side, T in ((theirs, self.teacher_T), (mine, self.T))
        )
        return {"queue": -self.weight * (said.softmax(1) * says.log_softmax(1)).sum(1).mean()}

    @torch.no_grad()
    def stepped(self):
        if self.after is None or not len(self.kept):
            return
        new = self.after[-len(self.kept) :]
        self.kept[(self.seen + torch.arange(len(new), device=new.device)) % len(self.kept)] = new
        self.seen += len(new)
        self.after = None
