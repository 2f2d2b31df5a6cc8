"""How well embeddings alone tell the label: by the images that lie nearest, and by a linear layer on top of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARP = 0.07  # temperature of the votes, as Wu et al. 2018 (Instance Discrimination) and those after them have it
CHUNK = 1024  # rows that are compared, or multiplied, at a time
STEPS, CLOSE = 500, 1e-7  # of the linear layer: at most so many, and the gradient at which it is found


def neighbours(known: Tensor, labels: Tensor, asked: Tensor, k: int, classes: int) -> Tensor:
    """The votes [m, classes] of the k known rows of highest cosine, each of exp(cosine / 0.07).

    >>> neighbours(torch.eye(3), torch.tensor([0, 1, 1]), torch.tensor([[0.1, 2.0, 0.0]]), 1, 2).argmax(1)
    tensor([1])
    """
    known, asked = (F.normalize(rows, dim=1) for rows in (known, asked))
    votes = asked.new_zeros(len(asked), classes)
    for some, counted in zip(asked.split(CHUNK), votes.split(CHUNK), strict=True):
        cosines, rows = (some @ known.T).topk(k, 1)
        counted.scatter_add_(1, labels[rows], (cosines / SHARP).exp())
    return votes


def linear_layer(known: Tensor, labels: Tensor, asked: Tensor, classes: int) -> Tensor:
    """The logits [m, classes] of a logistic regression, in f64; of a class that no known row has, -inf.

    Each dimension is standardised by the known rows. Minimised is the mean cross-entropy plus |W|² / 2n of n rows:
    there is one minimum, so that no seed has a part in it.
    """
    mean, std = known.double().mean(0), known.double().std(0, correction=0)
    std = std.where(std > 0, 1)
    found, targets = labels.unique(return_inverse=True)
    weights = mean.new_zeros(known.shape[1] + 1, len(found))
    solver = torch.optim.LBFGS([weights], 1, STEPS, None, CLOSE, 0.0, line_search_fn="strong_wolfe")

    def inputs(rows: Tensor) -> Tensor:
        return F.pad((rows.double() - mean) / std, (0, 1), value=1.0)  # the last one is the bias

    def loss() -> Tensor:
        slopes = torch.cat([weights[:-1], torch.zeros_like(weights[:1])])  # nothing pulls at a bias
        total, gradient = slopes.square().sum() / 2, slopes
        for rows, right in zip(known.split(CHUNK), targets.split(CHUNK), strict=True):
            x = inputs(rows)
            log_p = (x @ weights).log_softmax(1)
            total = total - log_p.gather(1, right[:, None]).sum()
            gradient = gradient + x.T @ (log_p.exp() - F.one_hot(right, len(found)))
        weights.grad = gradient / len(known)
        return total / len(known)

    solver.step(loss)
    logits = mean.new_full((len(asked), classes), -torch.inf)
    logits[:, found] = torch.cat([inputs(rows) @ weights for rows in asked.split(CHUNK)])
    return logits
