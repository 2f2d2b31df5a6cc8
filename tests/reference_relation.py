"""The logit and relation methods once more: slow, in f64, loop by loop from the formulas.

Shares no code with kdcache.methods; takes whole-library routines (torch.linalg.svd) where the methods have their own.
"""

import torch


def softmax(row, T=1.0):
    exps = [torch.exp((z - row.max().detach()) / T) for z in row]
    return [e / sum(exps) for e in exps]


def divergence(p, q):
    """KL of two lists of probabilities."""
    return sum(a * (torch.log(a) - torch.log(b)) for a, b in zip(p, q, strict=True))


def soft_target(s, t, T, squared=True):
    total = sum(divergence(softmax(b, T), softmax(a, T)) for a, b in zip(s, t, strict=True))
    return total / len(s) * (T * T if squared else 1)


def decoupled(s, t, targets, T):
    """TCKD and NCKD, each with T², mean over the labelled rows."""
    tckd, nckd, rows = [], [], 0
    for a, b, y in zip(s, t, targets.tolist(), strict=True):
        if y < 0:
            continue
        rows += 1
        p, q = softmax(b, T), softmax(a, T)
        p_not, q_not = sum(p) - p[y], sum(q) - q[y]
        tckd.append(divergence([p[y], p_not], [q[y], q_not]))
        wrong = [c for c in range(len(p)) if c != y]
        nckd.append(divergence([p[c] / p_not for c in wrong], [q[c] / q_not for c in wrong]))
    return T * T * sum(tckd) / rows, T * T * sum(nckd) / rows


def cross_entropy(s, targets):
    labelled = [-torch.log(softmax(a)[y]) for a, y in zip(s, targets.tolist(), strict=True) if y >= 0]
    return sum(labelled) / len(labelled)


def smoothed(s, targets, eps, on_all):
    """Cross-entropy with targets written out class by class."""
    losses = []
    for a, y in zip(s, targets.tolist(), strict=True):
        if y < 0:
            continue
        classes, q = len(a), softmax(a)
        if on_all:
            wanted = [eps / classes + (1 - eps) * (c == y) for c in range(classes)]
        else:
            wanted = [1 - eps if c == y else eps / (classes - 1) for c in range(classes)]
        losses.append(-sum(w * torch.log(p) for w, p in zip(wanted, q, strict=True)))
    return sum(losses) / len(losses)


def virtual_teacher(s, targets, tau, sure=0.99):
    """nn.KLDivLoss, mean over B·C, times C, to softmax(u / tau); labelled rows only."""
    losses = []
    for a, y in zip(s, targets.tolist(), strict=True):
        if y >= 0:
            u = torch.full_like(a, (1 - sure) / (len(a) - 1)).detach()
            u[y] = sure
            losses.append(divergence(softmax(u, tau), softmax(a)))
    return sum(losses) / (len(losses) * s.shape[1]) * s.shape[1]


def huber(a, b):
    x = torch.abs(a - b)
    return x * x / 2 if x < 1 else x - 0.5


def distances(x, diagonal=False):
    n = len(x)
    d = [[torch.zeros((), dtype=x.dtype) for _ in range(n)] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if i != j:
                d[i][j] = torch.sqrt((x[i] @ x[i] + x[j] @ x[j] - 2 * x[i] @ x[j]).clamp(min=1e-12))
    pairs = [d[i][j] for i in range(n) for j in range(n) if i != j]
    mean = sum(pairs) / (n * n if diagonal else len(pairs))
    return [[value / mean for value in row] for row in d]


def angles(x):
    n = len(x)
    zero = torch.zeros_like(x[0])
    e = [[(x[j] - x[i]) / (x[j] - x[i]).norm() if i != j else zero for j in range(n)] for i in range(n)]
    return [[[e[i][j] @ e[i][k] for k in range(n)] for j in range(n)] for i in range(n)]


def relations(s, t, diagonal=False):
    """RKD's two terms without weights."""
    n = len(s)
    a, b = distances(s, diagonal), distances(t, diagonal)
    distance = sum(huber(a[i][j], b[i][j]) for i in range(n) for j in range(n)) / n**2
    a, b = angles(s), angles(t)
    every = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    return distance, sum(huber(a[i][j][k], b[i][j][k]) for i, j, k in every) / n**3


def unit_rows(x):
    return torch.stack([row / torch.sqrt(row @ row) for row in x])


def right_vectors(features, count):
    """The first right-singular vectors [C, count] of one map, as LAPACK's SVD gives them."""
    pixels = torch.stack([features[:, i, j] for i in range(features.shape[1]) for j in range(features.shape[2])])
    return torch.linalg.svd(pixels, full_matrices=False)[2][:count].T


def canonical(features):
    v = right_vectors(features, 1)[:, 0]
    return v if v.sum() >= 0 else -v


def aligned(features, teacher):
    candidates = right_vectors(features, 4)
    cosines = [teacher @ candidates[:, k] for k in range(candidates.shape[1])]
    best = max(range(len(cosines)), key=lambda k: abs(cosines[k].item()))
    return candidates[:, best] * (1 if cosines[best] >= 0 else -1)


def both_vectors(student, teacher):
    """Per row a list of one vector per stage: (student's, teacher's)."""
    rows = []
    for i in range(len(student[0])):
        theirs = [canonical(maps[i]) for maps in teacher]
        rows.append(([aligned(maps[i], v) for maps, v in zip(student, theirs, strict=True)], theirs))
    return rows


def kd_svd(student, teacher):
    total = 0.0
    for mine, theirs in both_vectors(student, teacher):
        for stage in (1, 2):
            for a in range(len(mine[stage])):
                for b in range(len(mine[stage - 1])):
                    r = [torch.exp(-((v[stage][a] - v[stage - 1][b]) ** 2) / 8) for v in (mine, theirs)]
                    total = total + (r[0] - r[1]) ** 2
    return total


def batch_norm(x, norm, inference):
    mean, var = (norm.running_mean, norm.running_var) if inference else (x.mean(0), x.var(0, unbiased=False))
    return norm.weight * (x - mean) / torch.sqrt(var + 1e-5) + norm.bias


def graphs(relation, later, earlier, inference):
    """G[head][i][j] = S_i · R_j, where channel d·8 + head belongs to a head."""
    s = batch_norm(later @ relation.senders.weight.T, relation.senders.norm, inference)
    r = batch_norm(earlier @ relation.receivers.weight.T, relation.receivers.norm, inference)
    n, width = len(s), s.shape[1] // 8
    out = []
    for head in range(8):
        own = [d * 8 + head for d in range(width)]
        out.append([torch.stack([sum(s[i, c] * r[j, c] for c in own) for j in range(n)]) for i in range(n)])
    return out


def mhgd(relations, student, teacher):
    rows = both_vectors(student, teacher)
    total = 0.0
    for stage, name in ((1, "f2"), (2, "f3")):
        views = []
        for side in (0, 1):
            later, earlier = (torch.stack([row[side][k] for row in rows]) for k in (stage, stage - 1))
            views.append(graphs(relations[name], later, earlier, inference=True))
        for mine, theirs in zip(*views, strict=True):
            for g_s, g_t in zip(mine, theirs, strict=True):
                total = total + divergence(softmax(torch.tanh(g_s)), softmax(torch.tanh(g_t)))
    return total


def estimate(relation, earlier, later, noise):
    """The estimator's guess of the later vectors, in training mode."""
    every = graphs(relation, later, earlier, inference=False)
    x = batch_norm(earlier @ relation.hidden.weight.T, relation.hidden.norm, inference=False).clamp(min=0)
    guesses = []
    for i in range(len(earlier)):
        pieces = []
        for head in range(8):
            kept = 1.0 if noise[head, i, 0] > sum(noise[h, i, 0] for h in range(8)) / 8 else 0.0
            weights = softmax(every[head][i])
            pieces.append(kept * sum(w * x[j] for j, w in enumerate(weights)))
        guess = torch.cat(pieces) @ relation.weight.T + relation.bias
        guesses.append(guess / guess.norm())
    return torch.stack(guesses)
