"""The command that looks at a network before it is used."""

from __future__ import annotations

import textwrap

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put
from kdcache.report.table import columns
from kdcache.wording import by, by_colour, evaluated

MOST = 24  # modules that are listed; --json has them all
WIDTH = 100  # of a list of names


@click.command(
    "check-model",
    cls=Command,
    example="""
        kdcache check-model resnet20
        kdcache check-model my_nets:make --weights w.pt --data folder:birds
        kdcache check-model torchvision.models:resnet18 --taps f1=layer1,emb=avgpool
    """,
)
@click.argument("model", metavar="MODEL")
@click.option("--weights", type=common.FILE, metavar="F", help="Its weights.  [default: fresh ones]")
@common.normalisation_options
@click.option("--taps", metavar="T=P,…", help="Its taps by module paths: f1=layer1,emb=avgpool.")
@common.data_option
@common.augment_option
@common.device_option
@json_option
def check_model(model, weights, mean, std, taps, data, augment, device, as_json):
    """Say what a network takes, shows and costs, and its methods.

    MODEL is one of `kdcache list models`, or MODULE:FACTORY, a function of yours.
    """
    from kdcache import jobs

    device, fed = jobs.choose_device(device), jobs.normalisation(mean, std)
    opened = jobs.Data.open(data, augment, source=jobs.opening(bar))
    common.announce(opened)
    facts = jobs.check_model(model, opened, device, weights=weights, normalisation=fed, taps=taps)
    parts = {"other methods": reasons_page(facts["methods"]), "its modules": modules_page(facts["modules"])}
    below = [f"{title}:\n{page}" for title, page in parts.items() if page]
    put(facts, as_json, "\n\n".join([lines(described(facts)), *below]))


def described(facts: dict) -> dict[str, str]:
    mean, std = (by_colour(facts[key]) for key in ("mean", "std"))
    forward, of = facts["forward"], f"of {facts['file']}" if facts["file"] else "fresh"
    speed = f"{forward['images_per_second']:,.0f} images/s here, {forward['batch']} at once"
    text = {"model": facts["model"]}
    if facts["call"]:
        text |= {"signature": facts["signature"], "called as": facts["call"]}
    text |= {
        "weights": f"{facts['weights']:,}, {of}",
        "images": f"{by(facts['image'])} of {facts['data']}, under {facts['view']}",
        "evaluated on": evaluated(facts["evaluation"]),
        "logits": str(facts["logits"][0]),
        "normalised": f"mean {mean}, std {std}: {facts['normalisation']}",
        "a forward": f"{forward['multiply_adds'] / 1e6:,.1f} million multiplications an image; {speed}",
        "taps": taps_line(facts["taps"]) or "none but the logits",
    }
    if facts["suggested_taps"] and not facts["taps"]:
        text["it could have"] = f"--taps {facts['suggested_taps']}"
    for role, title in (("teacher", "can teach by"), ("student", "can learn by")):
        names = ", ".join(name for name, one in facts["methods"].items() if not one[role])
        text[title] = textwrap.fill(names, WIDTH).replace("\n", "\n" + " " * (2 + len("evaluated on")))
    return text


def taps_line(taps: dict[str, dict]) -> str:
    """The versions of a stage together: f1.raw/pre/post 64x8x8."""
    stages: dict[tuple[str, str], list[str]] = {}
    for tap, one in taps.items():
        stage, _, version = tap.partition(".")
        stages.setdefault((stage, by(one["shape"])), []).append(version)
    named = {key: f"{key[0]}.{'/'.join(versions)}" if versions[0] else key[0] for key, versions in stages.items()}
    return ", ".join(f"{name} {shape}" for (_, shape), name in named.items())


def reasons_page(methods: dict[str, dict[str, str]]) -> str:
    """Why it cannot serve the other methods."""
    rows: dict[str, list[str]] = {}
    for name, one in methods.items():
        if one["student"]:
            rows.setdefault(one["student"], []).append(name)
        elif one["teacher"] and one["teacher"] != "asks no teacher":
            rows.setdefault(f"as the teacher, {one['teacher']}", []).append(name)
    parts = []
    for reason, names in rows.items():
        for number, line in enumerate(textwrap.wrap(", ".join(names), WIDTH // 2)):
            parts.append([f"  {line}", "" if number else reason])
    return columns(parts)


def modules_page(modules: list[dict]) -> str:
    """Those that are not too deep in the network to be listed."""
    depths = sorted({one["path"].count(".") for one in modules})
    fitting = [depth for depth in depths if sum(one["path"].count(".") <= depth for one in modules) <= MOST]
    deepest = fitting[-1] if fitting else 0
    listed = [one for one in modules if one["path"].count(".") <= deepest]
    rows = [[f"  {one['path']}", one["type"], by(one["shape"]) if one["shape"] else "no tensor"] for one in listed]
    rest = len(modules) - len(listed)
    return columns(rows) + (f"\n  and {rest:,} inside these: --json lists all" if rest else "")


commands = (check_model,)
