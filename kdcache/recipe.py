"""An experiment as one TOML file, and its run from end to end.

[teacher]   model, epochs, ...          what train-teacher takes
[dump]      views, codec, method, ...   what dump-logits takes
[[student]] name, method, model, ...    what train-student takes, once for each seed
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from kdcache import choice
from kdcache.cache import open_cache
from kdcache.errors import UsageError
from kdcache.sources.arrays import quiet
from kdcache.teachers import Forward
from kdcache.train import Settings

TOP = {"title", "data", "augment", "fraction", "seeds", "settings", "teacher", "dump", "student", "show"}


@dataclass
class Recipe:
    """A recipe as it was read, with every key known."""

    name: str
    data: str
    seeds: int
    augment: str | None = None
    fraction: float = 1.0
    settings: dict = field(default_factory=dict)  # of all trainings
    teacher: dict = field(default_factory=dict)
    dump: dict = field(default_factory=dict)
    student: list[dict] = field(default_factory=list)
    show: bool = False
    title: str = ""

    @classmethod
    def load(cls, path: str, data: str | None = None, seeds: int | None = None) -> Recipe:
        try:
            table = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise UsageError(path, "a recipe", error.strerror or str(error), "see pipelines/") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(path, "a TOML file", str(error), "mend that line") from None
        known = {
            "": (table, TOP), "teacher": (table.get("teacher", {}), {"model", *SETTINGS}),
            "dump": (table.get("dump", {}), {"views", "codec", "method", "seed", "batch", "dtype"}),
            "settings": (table.get("settings", {}), SETTINGS),
        }  # fmt: skip
        for number, student in enumerate(table.get("student", [])):
            known[f"student {number + 1}"] = (student, {"name", "model", "method", "live", *SETTINGS})
        for part, (keys, allowed) in known.items():
            for key in keys:
                if key not in allowed:
                    place = f"{path} [{part}]" if part else path
                    raise UsageError(place, f"keys out of {', '.join(sorted(allowed))}", key, "check the spelling")
        if "model" not in table.get("teacher", {}) or not table.get("student"):
            raise UsageError(path, "[teacher] with a model, and one [[student]] or more", "less", "see pipelines/")
        given = {"data": data or table.pop("data", choice.DEFAULT_DATA), "seeds": seeds or table.pop("seeds", 3)}
        return cls(Path(path).stem, **({k: v for k, v in table.items() if k not in given} | given))

    def run(self, root: str, device: str = "cpu", progress=quiet) -> dict:
        """Trains the teacher unless it is there, dumps, trains every student with every seed; the table."""
        started = time.monotonic()
        data = choice.Data.open(self.data, self.augment, self.fraction)
        model = self.teacher["model"]
        folder = Path(root) / self.name
        settings = self.settings_of(self.teacher)
        taught = choice.train_teacher(model, data, settings, root=folder, device=device, resume=True, progress=progress)
        path = self.make_cache(model, data, folder, device, progress)
        rows = [self.row("teacher", model, [taught])]
        for student in self.student:
            found = [self.one(student, seed, data, path, folder, device, progress) for seed in range(self.seeds)]
            rows.append(self.row(student.get("name", student.get("method", "st")), found[0]["student"], found))
        facts = {"recipe": self.name, "data": self.data, "seeds": self.seeds, "rows": rows}
        facts["seconds"] = round(time.monotonic() - started, 1)
        if self.show:
            facts["sheet"] = str(choice.show(str(path), str(folder / "sheet.png"), 6, 5, self.data))
        (folder / "table.json").write_text(json.dumps(facts, indent=1) + "\n")
        return facts | {"text": table_text(facts)}

    def settings_of(self, part: dict, seed: int = 0) -> Settings:
        return Settings(**{"seed": seed} | self.settings | {k: v for k, v in part.items() if k in SETTINGS})

    def make_cache(self, model: str, data: choice.Data, folder: Path, device: str, progress) -> Path:
        network = choice.load_teacher(model, None, data, folder)
        given = dict(self.dump)
        forward = Forward(**{key: given.pop(key) for key in ("batch", "dtype") if key in given})
        path = folder / "logits.h5"
        options = choice.DumpOptions(path, **given, forward=forward, device=device)
        with choice.make_dump(network, data, options) as dump:
            if path.exists() and open_cache(path).meta["teacher"]["fingerprint"] != dump.described["fingerprint"]:
                path.unlink()  # of an earlier teacher of this very recipe
            return dump.run(progress)

    def one(self, student: dict, seed: int, data: choice.Data, path: Path, folder: Path, device: str, progress) -> dict:
        cache = open_cache(path)
        opened = choice.Data.of_cache(cache, self.data)
        live = choice.load_teacher(self.teacher["model"], None, data, folder) if student.get("live") else None
        chosen = choice.Student(
            opened, student.get("model") or choice.default_student(data), student.get("method", "st"),
            self.settings_of(student, seed), cache, live, device=device,
        )  # fmt: skip
        return choice.train_student(chosen, root=folder, progress=progress)

    @staticmethod
    def row(name: str, model: str, found: list[dict]) -> dict:
        row = {"name": name, "model": model, "seconds": round(sum(f["seconds"] for f in found) / len(found), 1)}
        for key in ("top1", "agreement"):
            values = [f[key] for f in found if key in f]
            if values:
                row[key] = statistics.mean(values)
                row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        return row


SETTINGS = {f.name for f in dataclasses.fields(Settings)}


def table_text(facts: dict) -> str:
    """The table as it is printed: percent, mean ± standard deviation over the seeds."""

    def percent(row: dict, key: str) -> str:
        if key not in row:
            return "-"
        spread = row[f"{key}_std"]
        return f"{100 * row[key]:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")

    head = ("", "model", "accuracy %", "agreement %", "seconds")
    body = [
        (r["name"], r["model"], percent(r, "top1"), percent(r, "agreement"), f"{r['seconds']:.1f}")
        for r in facts["rows"]
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in (head, *body)]
    text.insert(1, "  ".join("-" * w for w in widths))
    text.append(f"\n{facts['data']}, {facts['seeds']} seeds, {facts['seconds']:.0f} s in all")
    if "sheet" in facts:
        text.append(f"what the teacher saw and said: {facts['sheet']}")
    return "\n".join(text)
