"""What is in a cache file, as facts for a script and as a page for a person."""

from __future__ import annotations

from kdcache.checks import short
from kdcache.measures import MEASURES
from kdcache.report.table import columns
from kdcache.wording import count, exactness, readable


def made(facts: dict) -> str:
    """The line at the end of a command that made a cache."""
    if "shard" in facts:
        size = f"{readable(facts['disk_bytes'])} on the disk"
        return f"{facts['file']}: {progress_of(facts)}, {size}; when all are there: {facts['merge']}"
    size = f"{count(facts['rows'], 'row')}, {count(facts['views'], 'view')}, {readable(facts['bytes'])}"
    each = ", ".join(f"{name} {one['label']}" for name, one in facts["knowledge"].items())
    return (
        f"{facts['file']}: {size}; {each}, {bytes_a_row(facts)} bytes a row with its seed{right(facts, '; teacher ')}"
    )


def right(facts: dict, before: str) -> str:
    """How often the teacher is right, where that is known, with something before it."""
    from kdcache.proof.accuracy import accuracy_in_words

    text = accuracy_in_words(facts.get("accuracy", {}))
    return f"{before}{text}" if text else ""


def bytes_a_row(facts: dict) -> int:
    """Of one sample-view: all its knowledge, and its seed."""
    return sum(one["bytes_per_row"] for one in facts["knowledge"].values()) + facts["seed_bytes_per_row"]


def cache_page(facts: dict) -> str:
    """The page."""
    page = [[name, text] for name, text in identity(facts).items()]
    size = f", {readable(facts['disk_bytes'])} of it on the disk" if "shard" in facts else ""
    parts = [f"{facts['file']}: {readable(facts['bytes'])}{size}, {progress_of(facts)}", columns(page)]
    sample_views, seed = facts["rows"] * facts["views"], facts["seed_bytes_per_row"]
    sizes = [(name, one["label"], one["shape"], one["bytes_per_row"]) for name, one in facts["knowledge"].items()]
    sizes += [("seeds", "", (), seed), ("together", "", (), bytes_a_row(facts))]
    rows = [["knowledge", "codec", "values", "bytes a row", "in the file"]]
    for name, codec, shape, size in sizes:
        rows.append([name, codec, "x".join(map(str, shape)), str(size), readable(size * sample_views)])
    parts.append(columns(rows, right={2, 3, 4}))
    parts += [measured_table(name, facts, table) for name, table in facts["measured"].items() if table]
    return "\n\n".join(parts)


def progress_of(facts: dict) -> str:
    shard = facts.get("shard")
    of = f"shard {shard['number']} of {shard['of']}, " if shard else ""
    if facts["complete"]:
        return f"{of}{'all its blocks done' if shard else 'complete'}"
    share = 100 * facts["blocks_done"] / facts["blocks"]
    return f"{of}unfinished: {facts['blocks_done']:,} of {facts['blocks']:,} blocks done, {share:.0f} %"


def identity(facts: dict) -> dict[str, str]:
    """Who, what and how, in words."""
    source, view, teacher = facts["source"], facts["view"], facts["teacher"]
    part = "" if source["fraction"] == 1 else f", {source['fraction']} of it"
    names = ", ".join(facts["class_names"])
    kept = {"view", "size", "pipeline", "enumerated", "source_size"}
    plain = view.get("of", view)
    given = {key: value for key, value in sorted(plain.items()) if key not in kept and value not in (False, 0)}
    options = [key if value is True else f"{key} {value}" for key, value in given.items()]
    options += [step.split(".")[-1] for step in steps(plain.get("pipeline"))]
    pruned = facts.get("pruned_from")
    every = "all " if view.get("enumerated") and not pruned else ""
    shape = "x".join(map(str, view["size"]))
    forward = facts["forward"]
    on = [key.replace("_", " ") for key, value in forward.items() if value is True]
    page = {
        "images": f"{source['spec']} {source['split']}{part}: {count(facts['rows'], 'row')}",
        "classes": f"{facts['classes']}: {short(names)}",
        "views": f"{every}{facts['views']} of {view['view']} {shape}{', '.join(['', *options])}",
        **({"kept of": kept_of(pruned)} if pruned else {}),
        "seed": str(facts["run_key"]),
        "teacher": f"{teacher_of(teacher)}{right(facts, ', ')}",
        "forward": ", ".join([f"{forward.get('dtype')}", f"batches of {forward.get('batch')}", *on]),
        "method": facts["method"],
        "rounding": exactness(facts["exactness"]),
        **({"its loss": facts["loss"]} if facts["loss"] else {}),
        "evaluation": f"{facts['eval_rows']:,} un-augmented images of {shape}" if facts["eval_rows"] else "none",
        "blocks": f"of {facts['block_rows']:,} rows, each with a checksum",
        "made with": ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()),
    }
    unasked = () if teacher.get("kind", "network") == "network" else ("forward", "rounding")  # nobody ran a forward
    return {name: text for name, text in page.items() if name not in unasked}


def teacher_of(teacher: dict) -> str:
    """A network by its name and weights, a pseudo teacher by what was asked of it."""
    mark = f" {teacher['fingerprint'][:12]}" if "fingerprint" in teacher else ""
    match teacher.get("kind"):
        case "pseudo":
            return ", ".join(["pseudo", *asked_of(teacher.get("asked"))])
        case "import":
            return f"imported {teacher.get('given', 'logits')}{mark}"
    return f"{teacher.get('model', teacher.get('kind', '?'))}{mark and f', weights{mark}'}"


def asked_of(asked) -> list[str]:
    """What a pseudo teacher was asked for, as far as it differs from the usual."""
    if not isinstance(asked, dict):  # a header can hold anything
        return []
    given = {name: asked[name] for name in ASKED if asked.get(name) != USUAL.get(name)}
    right = {} if given.keys() & {"accuracy", "confusion", "schedule"} else {"accuracy": 0.9}
    return [f"{name} {in_short(value)}" for name, value in (right | given).items()]


ASKED = ("accuracy", "confusion", "schedule", "errors", "confidence", "calibrated", "spread", "temperature")
USUAL = {"calibrated": False, "errors": "fixed", "spread": "uniform", "temperature": 1.0}


def in_short(value) -> str:
    """An option of a pseudo teacher in a few words."""
    if isinstance(value, dict):
        ends = {name: one if isinstance(one, list) and name in ASKED else [one] for name, one in value.items()}
        return "(" + ", ".join(f"{name} {' to '.join(map(in_short, of))}" for name, of in ends.items()) + ")"
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        return f"{len(value)}x{len(value[0])}"
    return short(",".join(map(str, value)) if isinstance(value, list) else value)


def kept_of(pruned: dict) -> str:
    """What a pruned cache is a part of."""
    rows = f"; {pruned['rows']:,} rows" if "rows" in pruned else ""
    return f"{pruned['of']} views: {spans(pruned['views'])}; knowledge {', '.join(pruned['knowledge'])}{rows}"


def spans(numbers: list[int]) -> str:
    """Growing numbers as a user writes them: 0-9,20."""
    ends = [i for i, n in enumerate(numbers) if i + 1 == len(numbers) or numbers[i + 1] != n + 1]
    pairs = [(numbers[first], numbers[last]) for first, last in zip([0, *(i + 1 for i in ends)], ends, strict=False)]
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in pairs)


def steps(pipeline) -> list[str]:
    """The names of the transforms of another library's pipeline."""
    if isinstance(pipeline, list):
        return [str(step).partition("(")[0] for step in pipeline]
    try:
        return [step["__class_fullname__"] for step in pipeline["transform"]["transforms"]]
    except (TypeError, KeyError):
        return []


def measured_table(name: str, facts: dict, table: list[dict]) -> str:
    """What each codec would have cost and got wrong; a mark at the one that was taken."""
    taken = facts["knowledge"][name]
    warm = sorted({t for row in table for t in row.get("kl", {})}, key=float)
    seed = facts["seed_bytes_per_row"]
    apart = ["error, of what tells rows apart"] if any("error" in row for row in table) else []
    rows = [["", "codec", "bytes a row", "and its seed", "in the file", *(f"KL at T={t}" for t in warm), *apart, ""]]
    for row in table:
        mark = ">" if row["codec"] == taken["label"] else ""
        size = row["bytes"]
        errors = [f"{row['kl'][t]['mean']:.1e}" if t in row.get("kl", {}) else "" for t in warm]
        errors += [f"{row['error']:.1e}" if "error" in row else "" for _ in apart]
        remarks = [f"not taken: {row['refused']}"] if row.get("refused") else []
        remarks += [f"{row[key]} rows {what}" for key, what in REMARKS.items() if row.get(key)]
        total = readable((size + seed) * facts["rows"] * facts["views"])
        rows.append([mark, row["codec"], str(size), str(size + seed), total, *errors, "; ".join(remarks)])
    return f"{name}, as measured before the dump:\n{columns(rows, right=set(range(2, 5 + len(warm) + len(apart))))}"


REMARKS = {"flips": "change their top class", "clipped": "are clipped"}


def trained(students: list[dict]) -> str:
    """A line for each of several students, and what ended some of them early."""
    shown = [name for name in ("top1", "agreement", "seconds") if any(name in one for one in students)]
    rows = [["student", "method", "seed", *shown, "run"]]
    for one in students:
        figures = [MEASURES[name].text(one.get(name)) for name in shown]
        rows.append([one["student"], one["method"], str(one["seed"]), *figures, one["run"]])
    errors = [f"{one['run']}: ended early: {one['error']}" for one in students if "error" in one]
    return "\n".join([columns(rows, {2, *range(3, 3 + len(shown))}), *errors])
