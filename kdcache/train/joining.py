"""How processes that torchrun started become a team, and what becomes of it when one of them dies."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from kdcache.checks import short
from kdcache.errors import KdcacheError, ToldElsewhere, UsageError
from kdcache.ranks import Ranks
from kdcache.train.team import ONE_PROCESS, Several, Team

PATIENCE = datetime.timedelta(minutes=10)  # without a word of another process
TOLD = "told"  # in the store of torchrun: how many have said why the training ended
trainings = itertools.count()  # of this process, and so of all of them


@contextmanager
def joined(device: str | torch.device) -> Iterator[Team]:
    """The team of this process, as long as it trains; of what ends it, one process speaks.

    A group that somebody has made is taken as it is.
    """
    ranks = Ranks.from_environment()
    if ranks.world == 1:
        yield ONE_PROCESS
        return
    import torch.distributed as dist

    device = torch.device(device)
    if device.type == "cuda":
        require_own(device, ranks)
        if device.index is not None:
            torch.cuda.set_device(device)

    def call(name: str, *arguments) -> None:
        try:
            getattr(dist, name)(*arguments)
        except RuntimeError as error:  # of gloo and NCCL: a peer that is gone, or says nothing
            raise lost(ranks) from error

    if dist.is_initialized():
        yield Several(ranks.rank, ranks.world, device, call)
        return
    store = meet(dist, ranks, device)
    try:
        yield Several(ranks.rank, ranks.world, device, call)
        call("barrier")  # or the first to be done would take what the others still ask for with it
    except KdcacheError as error:
        if (spoken := by_one(error, store)) is error:
            raise
        raise spoken from error
    finally:
        dist.destroy_process_group()


def meet(dist, ranks: Ranks, device: torch.device):
    """Makes the group of all processes; where they may leave word for each other."""
    on_gpu, store = device.type == "cuda", None
    bound = device if on_gpu and device.index is not None else None
    try:
        store = dist.PrefixStore(f"kdcache/{next(trainings)}", store_of_torchrun())
        who = {"rank": ranks.rank, "world_size": ranks.world}
        dist.init_process_group("nccl" if on_gpu else "gloo", store=store, timeout=PATIENCE, device_id=bound, **who)
    except ValueError as error:
        found, remedy = short(error, 120), "start it with torchrun, or unset RANK and WORLD_SIZE"
        raise UsageError("torchrun", "MASTER_ADDR and MASTER_PORT", found, remedy) from None
    except RuntimeError as error:  # perhaps one of them has met something and is gone
        raise by_one(lost(ranks), store) from error
    return store


@cache
def store_of_torchrun():
    """Where processes find each other; names in it are of one training, or the next would read those of the last."""
    import torch.distributed as dist

    return next(dist.rendezvous("env://", timeout=PATIENCE))[0]


def require_own(device: torch.device, ranks: Ranks) -> None:
    """Refuses one GPU for several processes, where each could have its own."""
    own = os.environ.get("LOCAL_RANK") in (None, str(device.index))
    if not own and ranks.beside > 1 and torch.cuda.device_count() > 1:
        remedy = "leave it out: each takes the one of its number"
        raise UsageError("`device`", "a GPU for each process", str(device), remedy)


def by_one(error: KdcacheError, store) -> KdcacheError:
    """The error of the first process that meets one; of the others, one that is not told."""
    try:
        error.for_all = store is None or store.add(TOLD, 1) == 1
    except RuntimeError:  # torchrun is gone, too
        error.for_all = True
    return error if error.for_all else ToldElsewhere(error.place, error.expected, error.found, error.remedy)


def lost(ranks: Ranks) -> KdcacheError:
    found, remedy = "one that has ended, or says nothing", "start them again: `resume` goes on after the last epoch"
    return KdcacheError("training", f"all {ranks.world} processes", found, remedy)
