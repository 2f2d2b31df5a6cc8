"""What embeddings tell of the labels: those of a network, and those that lie in a cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.cache import Cache
from kdcache.errors import CacheError, TeacherError, UsageError
from kdcache.jobs.data import Data
from kdcache.measures.embeddings import linear_layer, neighbours
from kdcache.models.network import Network, evaluating, watch
from kdcache.proof.verdicts import require_eval_images

EMB = "emb"
BATCH = 256


class Embedded(NamedTuple):
    """Embeddings of training and of evaluation images, with their labels."""

    known: Tensor
    labels: Tensor
    asked: Tensor
    truth: Tensor


def of_network(network: Network, data: Data, device: str, workers: int) -> Embedded:
    """What goes into its head, of the images of both splits as they are: nothing is drawn."""
    network = data.tapped(network, network.arch.get("taps"))
    if EMB not in network.taps:
        remedy = "train it with its taps named, as emb=PATH:in"
        raise TeacherError(network.arch["model"], "a network whose embedding is known", "no tap emb", remedy)
    view = data.view.evaluation()
    every: list[Tensor] = []
    with evaluating(network.to(device)), watch(network, [EMB]) as look, torch.no_grad():
        for source in (data.train, data.held_out):
            loader = Loader(source, view, 0, device, workers)
            plan = straight_plan(np.flatnonzero(source.labels >= 0), BATCH)
            parts = [(look(batch.images)[EMB].flatten(1).float(), batch.targets) for batch in loader.run(plan)]
            every += labelled(parts, source.spec)
    return Embedded(*every)


def of_cache(cache: Cache, data: Data) -> Embedded:
    """Those that it has of its first view, and of the evaluation images."""
    if EMB not in cache.names or not cache.has_eval(EMB):
        expected, found = "embeddings, of evaluation images, too", f"{', '.join(cache.names)}"
        raise CacheError(cache.path, expected, found, "dump again with a `method` such as feat, or `knowledge` emb")
    if not require_eval_images(cache, data.held_out):
        raise CacheError(cache.path, "embeddings of these evaluation images", "those of others", "dump it again")
    every: list[Tensor] = []
    for labels, read in (
        (cache.labels, lambda rows: cache.read(0, rows, [EMB])),
        (data.held_out.labels, lambda rows: cache.read_eval(rows, [EMB])),
    ):
        plan = straight_plan(np.flatnonzero(labels >= 0), BATCH)
        parts = [(read(rows)[EMB].flatten(1), torch.from_numpy(labels[rows]).long()) for rows in plan]
        every += labelled(parts, data.train.spec)
    return Embedded(*every)


def labelled(parts: list[tuple[Tensor, Tensor]], spec: str) -> tuple[Tensor, Tensor]:
    """Embeddings and labels of images that have one."""
    if not parts:
        raise UsageError("`data`", "images with labels, to compare with", f"{spec} without", "name images with labels")
    rows, labels = (torch.cat(several) for several in zip(*parts, strict=True))
    return rows, labels


def measured(embedded: Embedded, classes: int, knn: int | None, linear_probe: bool) -> dict:
    """The accuracy of the nearest neighbours' votes, and that of a linear layer."""
    known, labels, asked, truth = embedded

    def top1(votes: Tensor) -> float:
        return float((votes.argmax(1) == truth).double().mean())

    found: dict[str, float] = {"compared_with": len(known)}
    if knn is not None:
        if knn > len(known):
            expected, remedy = f"at most the {len(known)} training images with a label", f"take {min(20, len(known))}"
            raise UsageError("`knn`", expected, f"{knn}", remedy)
        found |= {"knn": knn, "knn_top1": top1(neighbours(known, labels, asked, knn, classes))}
    if linear_probe:
        if len(labels.unique()) < 2:
            raise UsageError("`linear_probe`", "images of two classes or more", "of one", "name other `data`")
        found["probe_top1"] = top1(linear_layer(known, labels, asked, classes))
    return found
