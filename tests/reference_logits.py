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


def others(row, y, T):
    """The softmax of all classes but y."""
    return softmax(torch.stack(without(row, y)), T)


def labelled_rows(s, t, targets):
    return [(a, b, y) for a, b, y in zip(s, t, targets.tolist(), strict=True) if y >= 0]


def normalised(s, t, targets, T):
    """The term of the label's class and that of the others, with T² but without gamma."""
    right, rest = [], []
    for a, b, y in labelled_rows(s, t, targets):
        right.append(-softmax(b)[y] * torch.log(softmax(a)[y]))
        rest.append(-sum(p * torch.log(q) for p, q in zip(others(b, y, T), others(a, y, T), strict=True)))
    return sum(right) / len(right), T * T * sum(rest) / len(rest)


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


def learnt(s, t, place, span):
    """Soft targets at the temperature that a number stands for."""
    T = 1 + span / (1 + torch.exp(-place))
    return T * T * sum(divergence(softmax(b, T), softmax(a, T)) for a, b in zip(s, t, strict=True)) / len(s)


def refined(s, t, targets, T, T_alpha):
    """The confidence in one class, and what is left of the others, each with its T²."""
    sure, rest, rows = [], [], labelled_rows(s, t, targets)
    for a, b, y in rows:
        p, q = softmax(b, T_alpha), softmax(a, T_alpha)
        top = int(b.argmax())
        sure.append(divergence([p[top], sum(without(p, top))], [q[y], sum(without(q, y))]))
        below = [c for c in range(len(b)) if b[c] < b[y]]
        if below:
            rest.append(divergence(softmax(b[below], T), softmax(a[below], T)))
    return T_alpha**2 * sum(sure) / len(rows), T * T * sum(rest, torch.zeros(())) / len(rows)


def transport(s, t, targets, T, apart, sharp=1.0, blur=0.05):
    """Sinkhorn's cost among the classes without the label, each row with a kernel of its own."""
    costs, rows = [], labelled_rows(s, t, targets)
    for a, b, y in rows:
        keep = without(range(len(a)), y)
        cost = (1 - torch.exp(-sharp * apart[keep][:, keep])).clamp(min=0) + 1e-8
        kernel, u = torch.exp(-cost / blur), torch.full((len(keep),), 1 / len(keep)).double()
        p, q = (torch.stack(others(row, y, T)) for row in (b, a))
        for _ in range(10):
            v = p / (kernel.T @ u + 1e-8)
            u = q / (kernel @ v + 1e-8)
        costs.append((u[:, None] * kernel * v[None] * cost).sum())
    return sum(costs) / len(rows)


def alike(x, y):
    """Linear CKA of two sets of rows, in their order."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).square().sum() / ((x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt())


def decided(s, t):
    """-log of what the student gives to the teacher's favourite."""
    return sum(-torch.log(softmax(a)[int(b.argmax())]) for a, b in zip(s, t, strict=True)) / len(s)


def ranks(s, emb, targets, weight, bias, meant, smoothing=0.1):
    """The three terms of USKD without their weights, of the student's logits, the pooled stage and its linear map."""
    right, rest, weak = [], [], []
    rows = [(a, e, y) for a, e, y in zip(s, emb, targets.tolist(), strict=True) if y >= 0]
    squares = [softmax(a.detach())[y] ** 2 for a, _, y in rows]
    for (a, e, y), square in zip(rows, squares, strict=True):
        q, v = softmax(a), softmax(weight @ e + bias)
        right.append(-(square + 1 - sum(squares) / len(squares)) * torch.log(q[y]))
        wanted = [smoothing / len(a) + (1 - smoothing) * (c == y) for c in range(len(a))]
        weak.append(-sum(w * torch.log(p) for w, p in zip(wanted, v, strict=True)))
        belief = q if meant else [torch.log(p) for p in q]
        score = [v[c] / (1 - v[y] + 1e-6) + belief[c] / (1 - belief[y] + 1e-6) for c in range(len(a))]
        order = sorted(range(len(a)), key=lambda c: -float(score[c].detach()))
        zipf = without([1 / (1 + order.index(c)) for c in range(len(a))], y)
        rest.append(-sum(z / sum(zipf) * torch.log(p) for z, p in zip(zipf, others(a, y, 1.0), strict=True)))
    return tuple(sum(values) / len(values) for values in (right, rest, weak))


def levels(s, t, temperatures, masked, std):
    """The KL of two views, with T², and the Gram matrices of rows and of classes of the first; without a weight."""
    half = len(s) // 2
    sure = [max(softmax(row)) for row in t[:half]]
    given = [sum(softmax(row)[c] for row in t[:half]) for c in range(t.shape[1])]
    unsure, rare = ([float(v <= median(values)) for v in values] for values in (sure, given))
    m, n = sum(unsure) / half, sum(rare) / len(rare)
    mine, theirs = (standardised(z) if std else z for z in (s, t))
    rows = batch = classes = 0
    for number, T in enumerate(temperatures):
        kl = [T * T * divergence(softmax(b, T), softmax(a, T)) for a, b in zip(mine, theirs, strict=True)]
        if masked:
            rows += sum(u * v for u, v in zip(unsure, kl[:half], strict=True)) / half + sum(kl[half:]) / half
        else:
            rows += m * sum(kl[:half]) / half + sum(kl[:half] if number > 2 else kl[half:]) / half
        q, p = ([softmax(row, T) for row in z[:half]] for z in (s, t))
        batch += m * gram_distance(p, q) / half
        classes += n * gram_distance(*(list(zip(*z, strict=True)) for z in (p, q))) / len(rare)
    return rows, batch, classes


def median(values):
    values = sorted(float(v) for v in values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def gram_distance(a, b):
    """Squared, of the matrices of all inner products."""
    total = 0
    for i in range(len(a)):
        for j in range(len(a)):
            one, other = (sum(x * y for x, y in zip(z[i], z[j], strict=True)) for z in (a, b))
            total += (one - other) ** 2
    return total
