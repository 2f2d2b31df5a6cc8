"""What a network is, before it is used: how it is called, what it shows, what it costs, which methods it can serve."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcache.batches import Loader, straight_plan
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.estimates import measured_rate
from kdcache.jobs.loading import Normalisation, load_normalised
from kdcache.jobs.student import asking
from kdcache.methods import METHODS
from kdcache.methods import build as build_method
from kdcache.methods.compose import EveryTap
from kdcache.models import call_of, find, foreign
from kdcache.models.network import Network, check_output, evaluating, shapes
from kdcache.models.taps import Passed, passing, suggested
from kdcache.teachers import Forward, LiveTeacher
from kdcache.types import Shapes

AT_ONCE = 32  # images of the forward that is timed
SECONDS = 1.0
ASKS_NONE = "asks no teacher"


def check_model(
    model: str, data: Data, device: str, *, weights: str | None = None, normalisation: Normalisation | None = None,
    taps: str | None = None,
) -> dict:  # fmt: skip
    """All that a dump or a training would find out about a network; what makes it unusable is an error, as there."""
    find(model)
    call = call_of(model, len(data.train.classes))
    network, source = opened(model, data, weights, normalisation)
    check_output(network, data.image)
    modules = dict(network.body.named_modules())
    passed = passing(network, modules, data.image)
    proposal = suggested(passed, modules)
    network = data.tapped(network, taps)
    shown = shapes(network, network.taps, data.image)
    normalize = network.normalize
    return {
        "model": model,
        "signature": call and call[0],
        "call": call and call[1],
        "weights": sum(parameter.numel() for parameter in network.body.parameters()),
        "file": weights,
        "data": data.train.spec,
        "image": list(data.image),
        "view": data.view.name,
        "evaluation": data.seen_in_evaluation(),
        "logits": list(shown["logits"]),
        "mean": [round(float(value), 6) for value in normalize.mean],
        "std": [round(float(value), 6) for value in normalize.std],
        "normalisation": source,
        "taps": {tap: tap_facts(network, tap, shape) for tap, shape in shown.items() if tap != "logits"},
        "suggested_taps": proposal,
        "modules": [module_facts(path, modules[path], one) for path, one in passed.items() if path],
        "methods": serves(network, shown),
        "forward": cost(network, data, device),
    }


def opened(model: str, data: Data, weights: str | None, normalisation: Normalisation | None) -> tuple[Network, str]:
    """The network, and where its mean and std come from."""
    if not weights:
        whose = model.partition(":")[0] if foreign(model) else data.train.spec
        return data.network(model, 0, normalisation), "as given" if normalisation else f"of {whose}"
    network = load_normalised(weights, model, data, normalisation)
    if not network.assumed_normalisation:
        return network, "in the weights"
    return network, "as given" if normalisation else f"of {data.train.spec}, for there are none in the weights"


def tap_facts(network: Network, tap: str, shape: tuple[int, ...]) -> dict:
    path, side = network.places[tap]
    return {"path": path, "side": side, "shape": list(shape)}


def module_facts(path: str, module: nn.Module, passed: Passed) -> dict:
    """Name, type, and the shape of what it returns for an image; None where that is no tensor of a row per image."""
    output = passed.output
    shape = list(output.shape[1:]) if isinstance(output, Tensor) and len(output) == 2 else None
    return {"path": path, "type": type(module).__name__, "shape": shape}


def serves(network: Network, shown: Shapes) -> dict[str, dict[str, str]]:
    """Of every method: why it cannot have this as teacher, or as student of a teacher of these shapes; or nothing."""
    found, every = {}, EveryTap(logits=shown["logits"])
    for name in METHODS:
        method = build_method(name, every, every)
        both = needs(tap for tap in method.taps if tap not in shown)
        alone = needs(tap for tap in method.student_taps if tap not in shown)
        norms = needs(tap.replace(".pre", ".bn") for tap in method.norms if tap not in network.margins)
        student = both or alone or unfit(name, shown)
        teacher = (both or norms or (student if not alone else "")) if asking(name) else ASKS_NONE
        found[name] = {"teacher": teacher, "student": student}
    return found


def unfit(name: str, shown: Shapes) -> str:
    """What a method finds wrong with shapes."""
    try:
        build_method(name, shown, shown)
    except UsageError as error:
        return f"wants {error.expected}, not {error.found}"
    return ""


def needs(missing: Iterable[str]) -> str:
    names = ", ".join(missing)
    return f"needs {names}" if names else ""


def cost(network: Network, data: Data, device: str) -> dict:
    """Of a forward in f32 on this device: images a second, and multiplications with additions for one image."""
    blank = network.blank(data.image)
    with evaluating(network), FlopCounterMode(display=False) as counter:
        network(blank)
    loader = Loader(data.train, data.view, 0, device)
    batch = next(iter(loader.run(straight_plan(range(min(AT_ONCE, len(data.train))), AT_ONCE))))
    with LiveTeacher(network, build_method("st"), Forward(AT_ONCE), device) as live:
        rate, _ = measured_rate(live, itertools.repeat(batch), SECONDS)
    operations = counter.get_total_flops() // (2 * len(blank))
    return {"images_per_second": rate, "batch": len(batch), "multiply_adds": operations}
