"""Commands that look: at a file, at its pixels, at a checkpoint, at what there is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put


def summary(path: str | Path) -> dict:
    """What a cache file holds, finished or not."""
    from kdcache.cache.layout import read_layout
    from kdcache.cache.writer import blocks_done

    layout = read_layout(Path(path))
    meta = layout.meta
    done, total = blocks_done(layout)
    return {
        "rows": layout.rows,
        "views": layout.views,
        "classes": len(meta["source"]["classes"]),
        "complete": done == total,
        "bytes": layout.path.stat().st_size,
        "blocks_done": done,
        "blocks": total,
        "block_rows": layout.block_rows,
        "eval_rows": meta["eval"]["rows"],
        "source": {k: v for k, v in meta["source"].items() if k != "classes"},
        "view": meta["view"],
        "run_key": meta["run_key"],
        "teacher": meta["teacher"],
        "method": meta["method"],
        "forward": meta["forward"],
        "knowledge": {
            name: codec.to_json() | {"bytes_per_row": codec.dtype.itemsize} for name, codec in layout.codecs.items()
        },
        "libraries": meta["libraries"],
    }


@click.command(cls=Command, example="kdcache inspect logits.h5")
@click.argument("file")
@json_option
def inspect(file, as_json):
    """Say what is in a cache."""
    facts = summary(file)
    put(facts, as_json, described(file, facts))


def described(file: str, facts: dict) -> str:
    teacher, view, source = facts["teacher"], facts["view"], facts["source"]
    state = "complete" if facts["complete"] else f"unfinished: {facts['blocks_done']} of {facts['blocks']} blocks"
    text = {
        "file": f"{file}, {facts['bytes'] / 1e6:.2f} MB, {state}",
        "source": f"{source['spec']} {source['split']}, {facts['rows']} rows, {facts['classes']} classes",
        "views": f"{facts['views']} of {view['view']} {view['size'][0]}x{view['size'][1]}, seed {facts['run_key']}",
        "teacher": f"{teacher.get('model', teacher.get('kind'))} {teacher.get('fingerprint', '')[:12]}",
        "forward": ", ".join(f"{k} {v}" for k, v in facts["forward"].items()),
        "method": facts["method"],
    }
    for name, codec in facts["knowledge"].items():
        shape = "x".join(map(str, codec["shape"]))
        text[f"/knowledge/{name}"] = (
            f"{codec['codec']} [{shape}], {codec['bytes_per_row']} + 8 bytes a row (8: its seed)"
        )
    text["evaluation"] = f"the teacher on {facts['eval_rows']} un-augmented images"
    text["libraries"] = ", ".join(f"{k} {v}" for k, v in facts["libraries"].items())
    return lines(text)


@click.command(cls=Command, example="kdcache verify logits.h5 --teacher resnet8")
@click.argument("file")
@common.data_option
@click.option("--no-data", is_flag=True, help="The file alone.")
@click.option("--teacher", help="Also ask this teacher again.")
@click.option("--weights", metavar="F", help="Its weights.  [default: where train-teacher leaves them]")
@common.device_option
@common.runs_option
@json_option
def verify(file, data, no_data, teacher, weights, device, runs, as_json):
    """Prove that a cache is whole and that its pixels and answers come out again."""
    from kdcache import choice

    checks = list(choice.verify(file, data, no_data, teacher, weights, choice.choose_device(device), runs, bar))
    ok = all(check.ok for check in checks)
    text = [f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}" for check in checks]
    put({"ok": ok, "checks": [vars(check) for check in checks]}, as_json, "\n".join(text))
    sys.exit(0 if ok else 1)


@click.command(cls=Command, example="kdcache show logits.h5 -o sheet.png --rows 8 --views 6")
@click.argument("file")
@click.option("-o", "--out", default="sheet.png", show_default=True)
@click.option("--rows", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--views", default=6, show_default=True, type=click.IntRange(1, 32))
@common.data_option
@json_option
def show(file, out, rows, views, data, as_json):
    """Draw what the teacher saw and said: rendered views, label, its top three as bars."""
    from kdcache import choice

    path = choice.show(file, out, rows, views, data)
    put({"picture": str(path)}, as_json, str(path))


@click.command(cls=Command, example="kdcache evaluate runs/teacher-digits-resnet8/last.safetensors --cache logits.h5")
@click.argument("checkpoint")
@click.option("--model", help="For a checkpoint that does not name its own.")
@common.data_option
@click.option("--cache", metavar="F", help="Also the agreement with the teacher in this cache.")
@common.device_option
@common.workers_option
@json_option
def evaluate(checkpoint, model, data, cache, device, workers, as_json):
    """Measure a checkpoint on the evaluation images."""
    from kdcache import choice

    facts = choice.evaluate(checkpoint, model, data, cache, choice.choose_device(device), workers or 0)
    put({"checkpoint": checkpoint} | facts, as_json, lines(facts))


@click.command("list", cls=Command, example="kdcache list methods")
@click.argument("what", type=click.Choice(["models", "methods", "sources", "views", "codecs"]), required=False)
@json_option
def list_(what, as_json):
    """List models, methods, sources, views or codecs."""
    from kdcache import choice

    tables = choice.tables([what] if what else ["sources", "views", "codecs", "methods", "models"])
    text = "\n\n".join("\n".join([f"{name}:", *table_lines(rows)]) for name, rows in tables.items())
    put(tables, as_json, text)


def table_lines(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items()]


commands = (inspect, verify, show, evaluate, list_)
