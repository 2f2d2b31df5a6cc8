"""The methods that read embeddings and small projections of maps once more: slow, in f64, number by number.

Shares no code with kdcache.methods; connectors are given by their weights.
"""

from itertools import pairwise

import torch
from reference_relation import divergence, huber, softmax


def linear(layer, x):
    """Row by row; of a bias or none."""
    rows = [[sum(w * v for w, v in zip(weights, row, strict=True)) for weights in layer.weight] for row in x]
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias
    return torch.stack([torch.stack([v + b for v, b in zip(row, bias, strict=True)]) for row in rows])


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def pkt(s, t, eps=1e-7):
    def shares(x):
        norms = [torch.sqrt(sum(v * v for v in row)) + eps for row in x]
        close = [
            [(sum(a * b for a, b in zip(x[i], x[j], strict=True)) / norms[i] / norms[j] + 1) / 2 for j in range(len(x))]
            for i in range(len(x))
        ]
        return [[v / sum(row) for v in row] for row in close]

    pairs = [pair for rows in zip(shares(s), shares(t), strict=True) for pair in zip(*rows, strict=True)]
    return mean(b * torch.log((b + eps) / (a + eps)) for a, b in pairs)


def cc(mine, theirs, s, t):
    apart = torch.abs(linear(mine, s) - linear(theirs, t))
    return sum((a * b).sum() for a, b in pairwise(apart)) / (len(s) - 1)


def squares(s, t):
    return mean((a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True))


def standardised(values, eps):
    middle = mean(values)
    return [(v - middle) / torch.sqrt(mean((u - middle) ** 2 for u in values) + eps) for v in values]


def vkd(matrix, s, t):
    total = []
    for row, theirs in zip(s, t, strict=True):
        mine = [sum(w * v for w, v in zip(weights, row, strict=True)) for weights in matrix]
        total += [huber(a, b) for a, b in zip(mine, standardised(list(theirs), 1e-5), strict=True)]
    return mean(total)


def srd(layer, s, t):
    mine = linear(layer, s)
    total = 0.0
    for k in range(t.shape[1]):
        pair = (standardised(list(mine[:, k]), 1e-4), standardised(list(t[:, k]), 1e-4))
        total = total + sum((a - b) ** 4 for a, b in zip(*pair, strict=True))
    return 2 * torch.log(total)


def soft_targets(s, t):
    """At T = 1."""
    return mean(divergence(softmax(b), softmax(a)) for a, b in zip(s, t, strict=True))


def directions(rows):
    return [row / torch.sqrt(sum(v * v for v in row)) for row in rows]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def crd(mine, theirs, mine_kept, theirs_kept, s, t, chosen, temperature=0.07, eps=1e-7):
    """`chosen` are the rows that each row is scored against, its own first."""
    total = 0.0
    for layer, x, bank in ((mine, s, theirs_kept), (theirs, t, mine_kept)):
        scores = [
            [torch.exp(dot(h, bank[i]) / temperature) for i in rows]
            for h, rows in zip(directions(linear(layer, x)), chosen, strict=True)
        ]
        z = len(bank) * mean(v for row in scores for v in row).detach()
        noise = (len(chosen[0]) - 1) / len(bank)
        for own, *others in scores:
            total = total - torch.log(own / z / (own / z + noise + eps))
            total = total - sum(torch.log(noise / (v / z + noise + eps)) for v in others)
    return total / len(chosen)


def queue(layer, s, t, known):
    """Of each row, its own answer of the teacher and those that are known."""
    rows = []
    for mine, theirs in zip(directions(linear(layer, s)), directions(t), strict=True):
        keys = [theirs, *directions(known)]
        said = softmax(torch.stack([dot(theirs, key) for key in keys]), 0.01)
        says = softmax(torch.stack([dot(mine, key) for key in keys]), 0.2)
        rows.append(-sum(a * torch.log(b) for a, b in zip(said, says, strict=True)))
    return mean(rows)


def gaussians(maps, grid):
    """Of each row, channel and cell: mean and deviation, pixel by pixel."""
    h, w = maps.shape[2:]
    found = []
    for channels in maps:
        for one in channels:
            for i in range(grid):
                for j in range(grid):
                    rows = range(i * h // grid, -(-(i + 1) * h // grid))
                    columns = range(j * w // grid, -(-(j + 1) * w // grid))
                    pixels = [one[a, b] for a in rows for b in columns]
                    middle = mean(pixels)
                    variance = sum((v - middle) ** 2 for v in pixels) / (len(pixels) - 1)
                    found.append((middle, torch.sqrt(variance + 1e-5)))
    return found


def wkdf(student, teacher, grid, ratio):
    """Of the student's projected map."""
    total = 0.0
    for (a, u), (b, v) in zip(gaussians(student, grid), gaussians(teacher, grid), strict=True):
        total = total + ratio * (a - b) ** 2 + (u - v) ** 2
    return total / (len(student) * grid**2)
