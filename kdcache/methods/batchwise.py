"""How embeddings lie to others of the same batch: as shares of similarity (PKT), and to the next one (CC)."""

from __future__ import annotations

from torch import Tensor, nn

from kdcache.methods.base import Method
from kdcache.methods.embedding import embeddings, widths

PKT_EPS = 1e-7  # the author's, beside norms and in the logarithm


class ProbabilisticTransfer(Method):
    """Of each row: how it divides its similarity among all rows of the batch, teacher's against student's.

    The mean is over B², so that the weight is large: the divergence of each row would be B times as much.
    """

    paper = "PKT, Passalis & Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer"
    taps = ("emb",)
    term = "pkt"
    batch_matters = True

    def __init__(self, student=None, teacher=None, *, weight: float = 30000.0, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        self.weight = weight

    def terms(self, look, knowledge, batch):
        mine, theirs = (shares(x) + PKT_EPS for x in embeddings(look, knowledge))
        return {"pkt": self.weight * ((theirs - PKT_EPS) * (theirs / mine).log()).mean()}


def shares(x: Tensor) -> Tensor:
    """Cosines moved to 0..1, of which each row sums to 1; a row of zeros is like all others, and gets no gradient."""
    squared = x.square().sum(1, keepdim=True)
    long = squared > 0
    units = (x / (squared.where(long, 1).sqrt() + PKT_EPS)).where(long, 0)
    similar = ((units @ units.T + 1) / 2).clamp(min=0)  # rounding goes below
    return similar / similar.sum(1, keepdim=True)


class Correlation(Method):
    """Differences of the two embeddings, each mapped to 128 numbers, times those of the next row of the batch.

    RepDistiller's form, which came from the authors; their paper's is a kernel between embeddings. Both maps are
    learnt. One row has no next one: the term is then 0.
    """

    paper = "CC, Peng et al. 2019, Correlation Congruence"
    taps = ("emb",)
    term = "cc"
    batch_matters = True

    def __init__(self, student=None, teacher=None, *, weight: float = 0.02, width: int = 128, ce: float | None = None):
        super().__init__(student, teacher, ce=ce)
        mine, theirs = widths("cc", student, teacher)
        self.weight, self.width = weight, width
        self.mine, self.theirs = nn.Linear(mine, width), nn.Linear(theirs, width)

    def terms(self, look, knowledge, batch):
        mine, theirs = embeddings(look, knowledge)
        apart = (self.mine(mine) - self.theirs(theirs)).abs()
        return {"cc": self.weight * (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)}
