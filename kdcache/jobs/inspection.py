"""Looking at caches and checkpoints, and at what there is to choose from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from kdcache.batches import Loader
from kdcache.cache import Cache, open_cache
from kdcache.cache.hdf5.reading import SIGNATURE
from kdcache.checks import require_here, require_kind
from kdcache.errors import PipelineChanged, SourceError, TeacherError, UsageError
from kdcache.jobs import embeddings
from kdcache.jobs.content import renumbered
from kdcache.jobs.data import Data, opener, opening
from kdcache.jobs.loading import Normalisation, load_normalised, load_teacher, normalisation_in
from kdcache.jobs.machine import require_place, workers_for
from kdcache.jobs.packs import verify_pack
from kdcache.jobs.rows import training_rows
from kdcache.jobs.taught import taught_by
from kdcache.methods import Method, RawTaps
from kdcache.methods import build as build_method
from kdcache.models.network import Network, check_output, shapes
from kdcache.proof import verdicts as checks
from kdcache.proof.verdicts import Check, require_eval_images
from kdcache.report.sheet import contact_sheet
from kdcache.sources.pack_file import is_pack
from kdcache.teachers import Forward, LiveTeacher, describe
from kdcache.types import quiet
from kdcache.views import from_json


def verify(
    file, data, no_data: bool, augment: str | None, teacher: str | None, weights: str | None, device: str, root,
    normalisation: Normalisation | None = None, taps: str | None = None, progress=quiet,
    tolerate_decoder: int | None = None,
) -> Iterator[Check]:  # fmt: skip
    """Every check of a cache, with its data and, where one is named, its teacher; or of a pack."""
    require_here(file)
    if no_data and (data or teacher):
        raise UsageError("`no_data`", f"no `{'data' if data else 'teacher'}` beside it", "both", "leave one out")
    if weights and not teacher:
        raise UsageError("`weights`", "`teacher` beside it", "none", "name the model that the weights belong to")
    if taps and not teacher:
        raise UsageError("`taps`", "`teacher` beside it", "none", "name the model that has them")
    if normalisation and not teacher:
        raise UsageError("`mean` and `std`", "`teacher` beside them", "none", "name the model that is fed with them")
    for name, given in (("augment", augment), ("tolerate_decoder", tolerate_decoder)):
        if no_data and given is not None:
            raise UsageError("`no_data`", f"no `{name}` beside it", "both", "leave one out")
    if is_pack(file):
        of_caches = {"teacher": teacher, "augment": augment, "tolerate_decoder": tolerate_decoder}
        for name, given in of_caches.items():
            if given is not None:
                raise UsageError(f"`{name}`", "a cache to verify", "a pack", "leave it out")
        yield from verify_pack(file, data, no_data, progress)
        return
    cache = open_cache(file, check=False)
    if no_data:
        yield from checks.verify(cache, None, None, None, {}, progress)
        return
    stored = cache.meta["source"]
    try:
        view = from_json(cache.path, cache.meta["view"], augment)
        opened_split = opener(cache.path, stored, data, opening(progress))
        source, held_out = training_rows(cache, opened_split), opened_split("eval")
        Data(source, held_out, view).tolerate(tolerate_decoder)
    except (SourceError, PipelineChanged) as error:
        yield from checks.verify(cache, None, None, None, {}, progress)
        yield Check("source" if isinstance(error, SourceError) else "PipelineChanged", False, str(error))
        return
    with contextlib.ExitStack() as stack:
        asked, described = None, {}
        if teacher:
            opened = Data(source, source, view)
            stored = cache.meta["teacher"].get("taps")
            fed = normalisation or normalisation_in(cache)
            network = load_teacher(teacher, weights, opened, root, fed, taps or stored)
            forward = Forward.from_json(cache.path, cache.meta["forward"])
            described = describe(network)
            method = build_method("st") if "logits" in cache.canaries else method_of(cache, network, opened.image)
            asked = stack.enter_context(LiveTeacher(network, method, forward, device))
        yield from checks.verify(cache, source, view, asked, described, progress, held_out)


def method_of(cache: Cache, network: Network, image: tuple[int, int, int]) -> Method:
    """The method that a cache was dumped for, ready to project."""
    method, every = cache.meta["method"], shapes(network, network.taps, image)
    taps = method.removeprefix("knowledge ")
    built = build_method(method, every, every) if taps == method else RawTaps(taps.split(","))
    built.use(cache.constants)
    return built


def show(file: str, out: str, rows: int, views: int, data: str | None, augment: str | None = None) -> Path:
    """The contact sheet of a cache."""
    place = require_kind(f"`out` {out}", require_place(out), "PNG picture")
    cache = open_cache(file)
    opened = Data.of_cache(cache, data, augment)
    return contact_sheet(cache, Loader(opened.train, opened.view, cache), rows, views, place)


def evaluate(
    checkpoint: str, model: str | None, data: str | None, cache: str | None, device: str, workers: int | None,
    augment: str | None = None, normalisation: Normalisation | None = None, knn: int | None = None,
    linear_probe: bool = False,
) -> dict:  # fmt: skip
    """The measures of a checkpoint on the evaluation images: of `data`, of the cache, else those of its own run.

    With `knn` or `linear_probe` those of its embedding, too; alone, if it tells other classes apart. Of a cache as
    `checkpoint`, those of the embeddings in it.
    """
    compared = knn is not None or linear_probe
    checkpoint = checkpoint_of(checkpoint)
    if compared and is_hdf5(checkpoint):
        for name, given in (("model", model), ("cache", cache), ("mean` and `std", normalisation)):
            if given:
                raise UsageError(f"`{name}`", "a checkpoint to evaluate", "a cache of embeddings", "leave it out")
        return evaluate_stored(open_cache(checkpoint), data, augment, knn, linear_probe)
    store = open_cache(cache) if cache else None
    opened = Data.of_cache(store, data, augment) if store else as_trained(checkpoint, data, augment)
    network = load_normalised(checkpoint, model, opened, normalisation, other_classes=compared)
    if model and network.arch["model"] != model:
        raise TeacherError(checkpoint, f"weights of {model}", f"of {network.arch['model']}", "leave `model` out")
    check_output(network, opened.image)
    workers = workers_for(opened, workers)
    facts, classes = {"model": network.arch["model"]} | opened.seen_in_evaluation(), len(opened.held_out.classes)
    if not compared or network.arch["classes"] == classes:
        judged = taught_by(store).eval_logits(opened.held_out_loader(device, workers), require_eval_images)
        evaluation = opened.evaluation(judged, device, workers)
        facts |= evaluation.page(evaluation.outcome(network))
    if not compared:
        return facts
    return facts | embeddings.measured(
        embeddings.of_network(network, opened, device, workers), classes, knn, linear_probe
    )


def evaluate_stored(cache: Cache, data: str | None, augment: str | None, knn: int | None, linear_probe: bool) -> dict:
    """The measures of the embeddings that a cache has of its first view, and of the evaluation images."""
    opened = Data.of_cache(cache, data, augment)
    seen = {"model": cache.meta["teacher"].get("model", "")} | opened.seen_in_evaluation()
    found = embeddings.of_cache(cache, opened)
    return seen | embeddings.measured(found, len(opened.held_out.classes), knn, linear_probe)


def is_hdf5(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def checkpoint_of(path: str) -> str:
    """The file itself; of a run's folder the last network, as tables have it: the best was chosen by these images."""
    if not Path(path).is_dir():
        return path
    names = [name for name in ("last.safetensors", "best.safetensors") if (Path(path) / name).exists()]
    if not names:
        raise TeacherError(path, "a checkpoint, or the folder of a run", "a folder without one", "name the file")
    return str(Path(path) / names[0])


def as_trained(checkpoint: str, data: str | None, augment: str | None = None) -> Data:
    """Images and view of the run that a checkpoint lies in, unless others are named."""
    try:
        run = json.loads((Path(checkpoint).parent / "run.json").read_text())
        stored, view = run["data"], run["view"]
        spec, images, classes = stored["spec"], stored["fingerprint"], [str(name) for name in stored["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return Data.open(data, augment)
    if data not in (None, spec):
        opened = Data.open(data, augment)
        if opened.train.fingerprint() == images:  # the same ones in another place
            opened.view = from_json(checkpoint, view, augment)
        return opened
    opened_split = opener(checkpoint, stored, data)
    train, held_out = (opened_split(split) for split in ("train", "eval"))
    if classes:  # found by content, images have the numbers of the teacher's classes
        train, held_out = (renumbered(checkpoint, classes, source) for source in (train, held_out))
    return Data(train, held_out, from_json(checkpoint, view, augment))
