"""The second wave of logit methods once more: slow, in f64, row by row and class by class from the formulas.

Shares no code with kdcache.methods.
"""

import torch
from reference_relation import divergence, softmax


def standardised(z):
    """Row by row, with the unbiased standard deviation."""
    rows = []
    for row in z:
        mean = sum(row) / len(row)
        spread = torch.sqrt(sum((v - mean) ** 2 for v in row) / (len(row) - 1))
        rows.append(torch.stack([(v - mean) / (1e-7 + spread) for v in row]))
    return torch.stack(rows)


def pearson(a, b):
    a, b = ([v - sum(x) / len(x) for v in x] for x in (a, b))
    length = torch.sqrt(sum(v * v for v in a)) * torch.sqrt(sum(v * v for v in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length + 1e-8)


def correlations(s, t, T):
    """1 - the mean correlation of rows, and of classes; without T²."""
    q, p = ([softmax(row, T) for row in z] for z in (s, t))
    rows = [pearson(a, b) for a, b in zip(q, p, strict=True)]
    classes = [pearson([a[c] for a in q], [b[c] for b in p]) for c in range(len(s[0]))]
    return 1 - sum(rows) / len(rows), 1 - sum(classes) / len(classes)


def without(values, y):
    return [v for c, v in enumerate(values) if c != y]


def apart(row, y, T):
    """The softmax of all classes but y."""
    return softmax(torch.stack(without(row, y)), T)


def labelled_rows(s, t, targets):
    return [(a, b, y) for a, b, y in zip(s, t, targets.tolist(), strict=True) if y >= 0]


def normalised(s, t, targets, T):
    """The term of the label's class and that of the others, with T² but without gamma."""
    right, others = [], []
    for a, b, y in labelled_rows(s, t, targets):
        right.append(-softmax(b)[y] * torch.log(softmax(a)[y]))
        others.append(-sum(p * torch.log(q) for p, q in zip(apart(b, y, T), apart(a, y, T), strict=True)))
    return sum(right) / len(right), T * T * sum(others) / len(others)


def weighted_soft_labels(s, t, targets, T):
    losses = []
    for a, b, y in labelled_rows(s, t, targets):
        mine, theirs = (-torch.log(softmax(z.detach())[y]) for z in (a, b))
        soft = -sum(p * torch.log(q) for p, q in zip(softmax(b, T), softmax(a, T), strict=True))
        losses.append((1 - torch.exp(-mine / (theirs + 1e-7))) * soft)
    return T * T * sum(losses) / len(losses)


def transformed(s, t, gamma, weighted):
    losses = []
    for a, b in zip(s, t, strict=True):
        powers = [p**gamma for p in softmax(b)]
        total = sum(powers)
        losses.append((total if weighted else 1) * divergence([p / total for p in powers], softmax(a)))
    return sum(losses) / len(losses)


def binary(s, wanted):
    """Mean over rows and classes of binary cross-entropies with these targets."""
    losses = []
    for a, w in zip(s, wanted, strict=True):
        for z, p in zip(a, w, strict=True):
            q = 1 / (1 + torch.exp(-z))
            losses.append(-p * torch.log(q) - (1 - p) * torch.log(1 - q))
    return sum(losses) / len(losses)
