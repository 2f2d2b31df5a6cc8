"""What the last layer makes of maps, once more: slow, in f64, region by region; shares no code with kdcache.methods."""

import torch
from reference_embedding import directions, dot, mean, squares
from reference_feature import conv, norm, pool
from reference_relation import decoupled, soft_target


def cat(s, t, grid, unit):
    values = []
    for rows in zip(pool(s, (grid, grid)), pool(t, (grid, grid)), strict=True):
        for pair in zip(*rows, strict=True):
            mine, theirs = (torch.stack(directions([one.flatten()]) if unit else [one.flatten()]) for one in pair)
            values.append(squares(mine, theirs))
    return mean(values)


def regions(cam, logits, scales):
    """Of each row, the logits of all its regions; the bias is what is left of the logits."""
    found = []
    for maps, row in zip(cam, logits, strict=True):
        bias = [z - mean(one.flatten()) for z, one in zip(row, maps, strict=True)]
        cells = pool(maps, (4, 4))
        parts = [pool(cells, (side, side)).flatten(1) for side in scales]
        found.append(
            [
                torch.stack([v + b for v, b in zip(part[:, i], bias, strict=True)])
                for part in parts
                for i in range(part.shape[1])
            ]
        )
    return found


def sdd(s, t, targets, scales, T, dkd):
    """`dkd`: the weights of its two parts; None: soft targets."""
    rows = []
    for mine, theirs, y in zip(regions(*s, scales), regions(*t, scales), targets, strict=True):
        if y < 0:
            continue
        whole, values = theirs[0].argmax() == y, []
        for a, b in zip(mine, theirs, strict=True):
            pair = a[None], b[None]
            parts = decoupled(*pair, y[None], T) if dkd else [soft_target(*pair, T)]
            value = sum(w * part for w, part in zip(dkd or [1], parts, strict=True))
            values.append(value * (1 if (b.argmax() == y) == whole else 2))
        rows.append(mean(values))
    return mean(rows)


def srrl(connector, layer, maps, theirs):
    """Of embeddings, and of the logits that the teacher's layer makes of them."""
    seen = normed(connector, conv(maps, connector.conv.weight))
    mine = torch.stack([torch.stack([mean(v.clamp(min=0) for v in one.flatten()) for one in row]) for row in seen])
    logits = [torch.stack([torch.stack([dot(w, row) for w in layer]) for row in side]) for side in (mine, theirs)]
    return squares(mine, theirs), squares(*logits)


def nearest(x, size):
    (h, w), (rows, columns) = x.shape[-2:], size
    return torch.stack(
        [torch.stack([x[..., i * h // rows, j * w // columns] for j in range(columns)], -1) for i in range(rows)], -2
    )


def reviewed(method, mine, theirs):
    """From the deepest level up; the maps of one level are of one size."""
    total, deeper = 0.0, None
    for fusion, x, t in reversed(list(zip(method.fusions, mine, theirs, strict=True))):
        x = normed(fusion.narrow, conv(x, fusion.narrow.conv.weight))
        if deeper is not None:
            deeper = nearest(deeper, x.shape[-2:])
            gates = 1 / (1 + torch.exp(-conv(torch.cat([x, deeper], 1), fusion.gates.weight, fusion.gates.bias)))
            x = x * gates[:, :1] + deeper * gates[:, 1:]
        deeper = nearest(x, t.shape[-2:])
        shown = normed(fusion.widen, conv(deeper, fusion.widen.conv.weight, pad=1))
        sizes = [t.shape[2], *(side for side in (4, 2, 1) if side < t.shape[2])]
        errors = [squares(shown, t), *(squares(pool(shown, (n, n)), pool(t, (n, n))) for n in sizes[1:])]
        strengths = [0.5**k for k in range(len(sizes))]
        total = total + sum(a * b for a, b in zip(strengths, errors, strict=True)) / sum(strengths)
    return total


def normed(connector, x):
    return norm(x, connector.norm.weight, connector.norm.bias)
