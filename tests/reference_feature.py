"""The feature methods once more: slow, in f64, loop by loop from the formulas, sharing no code with kdcache.methods."""

import math

import torch


def pool(x, size, how="avg"):
    """Adaptive pooling: bin i of n over H values covers floor(iH/n) to ceil((i+1)H/n)."""
    (h, w), (rows, columns) = x.shape[-2:], size
    out = []
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * h // rows, -(-(i + 1) * h // rows)
            left, right = j * w // columns, -(-(j + 1) * w // columns)
            cell = x[..., top:bottom, left:right].flatten(-2)
            out.append(cell.mean(-1) if how == "avg" else cell.max(-1).values)
    return torch.stack(out, -1).reshape(*x.shape[:-2], rows, columns)


def conv(x, weight, bias=None, stride=1, pad=0):
    k, wide = weight.shape[-1], torch.nn.functional.pad(x, (pad, pad, pad, pad))
    kh = weight.shape[-2]
    rows = []
    for i in range(0, wide.shape[2] - kh + 1, stride):
        cells = []
        for j in range(0, wide.shape[3] - k + 1, stride):
            cells.append(torch.einsum("bcij,ocij->bo", wide[:, :, i : i + kh, j : j + k], weight))
        rows.append(torch.stack(cells, -1))
    out = torch.stack(rows, -2)
    return out if bias is None else out + bias[None, :, None, None]


def deconv(x, weight, bias, stride, pad):
    """Every pixel stamps its kernel; then the rim is cut."""
    b, _, h, w = x.shape
    k = weight.shape[-1]
    stamps = torch.zeros(b, weight.shape[1], (h - 1) * stride + k, (w - 1) * stride + k, dtype=x.dtype)
    for i in range(h):
        for j in range(w):
            stamp = torch.zeros_like(stamps)
            a, c = i * stride, j * stride
            stamp[:, :, a : a + k, c : c + k] = torch.einsum("bc,coij->boij", x[:, :, i, j], weight)
            stamps = stamps + stamp
    inner = stamps[:, :, pad : stamps.shape[2] - pad, pad : stamps.shape[3] - pad]
    return inner + bias[None, :, None, None]


def norm(x, weight, bias):
    """Batch statistics, channel by channel."""
    channels = []
    for c in range(x.shape[1]):
        v = x[:, c]
        mean = v.sum() / v.numel()
        variance = ((v - mean) ** 2).sum() / v.numel()
        channels.append((v - mean) / (variance + 1e-5).sqrt() * weight[c] + bias[c])
    return torch.stack(channels, 1)


def leaky(x):
    return torch.where(x > 0, x, 0.1 * x)


def length_one(v):
    return v / (v * v).sum().sqrt()


# --- attention -------------------------------------------------------------------------------------------------------


def attention(f):
    """[B, C, h, w] to [B, h, w]."""
    maps = []
    for row in f:
        energy = sum(channel * channel for channel in row) / len(row)
        maps.append(length_one(energy.reshape(-1)).reshape(energy.shape))
    return torch.stack(maps)


def at_stage(s, t, squared=True):
    """Both already on one grid."""
    a, b = attention(s), attention(t)
    pixels, total = a[0].numel(), 0.0
    for x, y in zip(a, b, strict=True):
        square = sum((p - q) ** 2 for p, q in zip(x.reshape(-1), y.reshape(-1), strict=True))
        total = total + (square if squared else square.sqrt() / 2)
    return total / (pixels * len(a))


# --- hints -----------------------------------------------------------------------------------------------------------


def mse(a, b):
    return sum(((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)) / a.numel()


def regress(connector, x, kind, relu):
    """RepDistiller's regressor; kind: the convolution that the two grids ask for."""
    w, b = connector.conv.weight, connector.conv.bias
    y = {"same": lambda: conv(x, w, b), "half": lambda: conv(x, w, b, 2, 1), "twice": lambda: deconv(x, w, b, 2, 1)}[
        kind
    ]()
    y = norm(y, connector.norm.weight, connector.norm.bias)
    return y.clamp(min=0) if relu else y


def vid_stage(gaussian, s, t, eps):
    w1, w2, w3 = (p[:, :, 0, 0] for p in gaussian.mu.parameters())
    total, variance = 0.0, torch.log(1 + torch.exp(gaussian.rho)) + eps
    for b in range(len(s)):
        for i in range(s.shape[2]):
            for j in range(s.shape[3]):
                mean = w3 @ (w2 @ (w1 @ s[b, :, i, j]).clamp(min=0)).clamp(min=0)
                total = total + (0.5 * ((mean - t[b, :, i, j]) ** 2 / variance + torch.log(variance))).sum()
    return total / t.numel()


# --- factors ---------------------------------------------------------------------------------------------------------


def encoder(x, weights):
    """Weight, bias, weight, bias, ... of 3x3 convolutions with LeakyReLU 0.1."""
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        x = leaky(conv(x, w, b, 1, 1))
    return x


def encoder_with_norm(x, steps):
    for step in steps:
        x = leaky(norm(conv(x, step.conv.weight, step.conv.bias, 1, 1), step.norm.weight, step.norm.bias))
    return x


def factor(x):
    return torch.stack([length_one(row.reshape(-1)).reshape(row.shape) for row in x])


def mean_abs(a, b):
    return sum((x - y).abs().sum() for x, y in zip(a, b, strict=True)) / a.numel()


# --- before the ReLU -------------------------------------------------------------------------------------------------


def ab_stage(s, t, margin):
    """The sum, from the four cases of its definition."""
    total = 0.0
    for x, y in zip(s.reshape(-1), t.reshape(-1).tolist(), strict=True):
        if y <= 0 and x > -margin:
            total = total + (x + margin) ** 2
        if y > 0 and x <= margin:
            total = total + (x - margin) ** 2
    return total


def co_stage(s, t, margins):
    """From the raw teacher; mdistiller's three cases."""
    total = 0.0
    for c, m in enumerate(margins.tolist()):
        for x, y in zip(s[:, c].reshape(-1), t[:, c].reshape(-1).tolist(), strict=True):
            if y > 0 or (y > m and x > y):
                total = total + (x - y) ** 2
            elif y <= m and x > m:
                total = total + (x - m) ** 2
    return total


def margin(gamma, beta):
    """The mean of the negative part of a normal distribution, by adding up slices of it."""
    sigma, mass, moment = abs(gamma), 0.0, 0.0
    depth = 12 * sigma - min(beta, 0)
    for i in range(100_000):
        x = -(i + 0.5) * depth / 100_000
        density = math.exp(-(((x - beta) / sigma) ** 2) / 2)
        mass, moment = mass + density, moment + x * density
    return moment / mass


def widened(connector, x):
    return norm(conv(x, connector.conv.weight), connector.norm.weight, connector.norm.bias)


# --- relations -------------------------------------------------------------------------------------------------------


def flow(a, b, how="avg"):
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = pool(a, size, how), pool(b, size, how)
    rows = []
    for x, y in zip(a, b, strict=True):
        rows.append(torch.stack([torch.stack([(p * q).sum() / p.numel() for q in y]) for p in x]))
    return torch.stack(rows)


def sp(s, t):
    def gram(f):
        rows = [torch.stack([(x * y).sum() for y in f]) for x in f]
        return [length_one(row) for row in rows]

    return sum(((a - b) ** 2).sum() for a, b in zip(gram(s), gram(t), strict=True)) / len(s) ** 2


def nst_stage(s, t):
    total = 0.0
    for a, b in zip(s, t, strict=True):
        a, b = ([length_one(channel.reshape(-1)) for channel in x] for x in (a, b))
        for x, y, sign in ((b, b, 1), (a, a, 1), (a, b, -2)):
            total = total + sign * sum((p @ q) ** 2 for p in x for q in y) / (len(x) * len(y))
    return total / len(s)


def soft_targets(s, t, T):
    """KL(teacher, student) at temperature T, mean over rows, no T²."""
    total = 0.0
    for x, y in zip(s / T, t / T, strict=True):
        p, q = torch.exp(y - torch.logsumexp(y, 0)), torch.exp(x - torch.logsumexp(x, 0))
        total = total + sum(a * (torch.log(a) - torch.log(b)) for a, b in zip(p, q, strict=True))
    return total / len(s)
