"""The keys that a recipe may have: what each holds, what it is without being written, and what it means.

The tables of docs/recipes.md are made of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdcache.checks import advice, quoted
from kdcache.errors import UsageError
from kdcache.recipe.lines import Lines
from kdcache.train import Settings


class Key(NamedTuple):
    """One key: the kind of its value, its default as docs show it, and its meaning."""

    kind: str
    default: str
    meaning: str


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def all_of(holds: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(holds, value))


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {  # name in docs -> (in errors, what fits)
    "text": ("a text in quotes", is_text),
    "number": ("a number", is_number),
    "whole number": ("a whole number", is_whole),
    "true or false": ("true or false", lambda value: isinstance(value, bool)),
    "numbers": ("a list of numbers", all_of(is_number)),
    "text, or a list": ("a text in quotes, or a list of them", lambda value: is_text(value) or all_of(is_text)(value)),
    "whole number, or a list": (
        "a whole number, or a list of them", lambda value: is_whole(value) or all_of(is_whole)(value)
    ),
    'whole number, or "all"': ('a whole number, or "all"', lambda value: is_whole(value) or is_text(value)),
    "number, or text": ("a number, or the name of a key", lambda value: is_number(value) or is_text(value)),
    "number, or table": (
        "a number, or a table with one of each method",
        lambda value: is_number(value) or (isinstance(value, dict) and all(map(is_number, value.values()))),
    ),
    "true or false, or table": (
        "true, or a table with short",
        lambda value: isinstance(value, bool | dict),
    ),
    "table": ("a table", lambda value: isinstance(value, dict)),
    "table, or tables": ("a table", lambda value: isinstance(value, dict | list)),
    "tables": ("[[student]] tables", lambda value: isinstance(value, list)),
}  # fmt: skip
LISTS = {"numbers", "text, or a list", "whole number, or a list"}
"""Kinds whose value may be a list in itself; any other list in [[student]] stands for several students."""

MEANINGS = {  # of the training settings
    "epochs": "passes over the training images",
    "batch": "images in a step",
    "accumulate": "parts that a batch is learnt in, one after the other, for memory; a step still sees all of it",
    "optimizer": "sgd, adam, adamw, or dot: two momenta, for the teacher's terms and for cross-entropy",
    "lr": "the highest learning rate; 0.1 for sgd and dot, else 0.001",
    "momentum": "of sgd and dot",
    "delta": "of dot: the teacher's terms have so much more momentum, cross-entropy so much less",
    "nesterov": "Nesterov's momentum",
    "weight_decay": "pull of the weights towards 0; adamw spares biases and normalisation layers",
    "betas": "of adam and adamw",
    "schedule": "of the learning rate: cosine, step or onecycle",
    "warmup": "epochs in which the learning rate rises, at most half of them; onecycle has its own",
    "milestones": "of step: when the learning rate falls, as shares of the epochs",
    "gamma": "of step: the factor by which it falls",
    "clip": "largest norm of the gradient; 0: no limit",
    "ema": "decay of a running mean of the weights: a second network, evaluated and saved beside the first; 0: none",
    "dtype": "f32, or bf16 for autocast",
    "channels_last": "memory layout of images and weights",
    "compile": "torch.compile: about a minute at first, faster steps",
    "grad_checkpoint": "feature maps are computed again for the gradient: less memory, a third more time",
    "sync_bn": "batch norm over the images of all processes of a training; those of a recipe have one",
    "eval_every": "epochs between evaluations; the last epoch always has one",
    "tensorboard": "an event file for TensorBoard beside each training's records",
    "init_from": "weights to begin with: a file, or pretrained, those of its library; a head of other classes is new",
    "freeze": "backbone: only the head is trained; nothing: all",
    "backbone_lr": "factor on the learning rate of all but the head",
    "seed": "of weights and order; of a student, `seeds` count from it",
}
ANNOTATIONS = {
    "int": "whole number",
    "bool": "true or false",
    "str": "text",
    "str | None": "text",
}  # what is not here is a number or a tuple


UNSET = {"lr": "by optimizer", "init_from": "fresh weights"}


def settings_keys() -> dict[str, Key]:
    found = {}
    for field in dataclasses.fields(Settings):
        annotation = str(field.type)
        kind = ANNOTATIONS.get(annotation, "numbers" if annotation.startswith("tuple") else "number")
        default = UNSET[field.name] if field.default is None else written(field.default)
        found[field.name] = Key(kind, default, MEANINGS[field.name])
    return found


def written(value: object) -> str:
    """As TOML has it."""
    return str(list(value) if isinstance(value, tuple) else value).lower()


SETTINGS = settings_keys()
OVERRIDES = {name: key._replace(default="that of [settings]") for name, key in SETTINGS.items()}
SMOOTHING = Key("number", "0.0", "of the cross-entropy of its training")
KEYS: dict[str, dict[str, Key]] = {
    "": {
        "title": Key("text", "none", "the heading of the table"),
        "data": Key("text", "digits, or that of `cache`", "the images: `kdcache list sources`"),
        "augment": Key("text", "the data's own", "the view: `kdcache list views`"),
        "pack": Key("true or false, or table", "false", "the images are decoded once, into one file of pixels"),
        "fraction": Key("number", "1.0", "a stratified part of the training images, for caches and students"),
        "seeds": Key("whole number, or a list", "3", "trainings of each student: 3 is [0, 1, 2]"),
        "cache": Key("text, or a list", "none", "files made before, which students read; instead of [dump]"),
        "show": Key("true or false", "false", "a contact sheet beside the table"),
        "settings": Key("table", "none", "training settings of all networks"),
        "teacher": Key("table, or tables", "none", "who is asked; several as [[teacher]]"),
        "dump": Key("table, or tables", "one a teacher", "how answers are stored; several as [[dump]]"),
        "student": Key("tables", "required", "who learns; one or more"),
        "plot": Key("table", "none", "accuracy over `x`, a line for each `series`; needs kdcache[plot]"),
    },
    "settings": SETTINGS,
    "teacher": {
        "name": Key("text", "its model", "what [[dump]] and `cache` call it"),
        "model": Key("text", "required", "`kdcache list models`, or MODULE:FACTORY, which takes `--code`"),
        "weights": Key("text", "none", "a file, or pretrained, those of its library: this teacher is not trained"),
        "mean": Key("numbers", "in the weights", "what images are normalised with: red, green, blue in 0..1"),
        "std": Key("numbers", "in the weights", "like `mean`"),
        "taps": Key("text", "its own", "as `--taps` takes them: f1=layer1,emb=avgpool, by the paths of its modules"),
        "fraction": Key("number", "that of the recipe", "the part of the training images that it is trained on"),
        "label_smoothing": SMOOTHING,
        "published": Key("number", "none", "its accuracy % elsewhere, for the table"),
        "source": Key("text", "none", "where that is published"),
        **OVERRIDES,
    },
    "dump": {
        "name": Key("text", "its teacher's", "what `cache` of a student calls it"),
        "teacher": Key("text", "the only one", "the name of a [[teacher]]"),
        "views": Key('whole number, or "all"', "10", "renderings of each image"),
        "codec": Key("text", "f16", "of the logits: `kdcache list codecs`, or auto; f16,emb=int8: of embeddings, too"),
        "method": Key("text", "what students read", "what is stored: all that these methods need"),
        "seed": Key("whole number", "0", "of the views"),
        "batch": Key("whole number", "256", "images at once"),
        "dtype": Key("text", "f32", "of the teacher's forward: f32, or bf16 for autocast"),
    },
    "student": {
        "name": Key("text", "its method", "how the table calls it"),
        "model": Key("text", "that of the data", "`kdcache list models`, or MODULE:FACTORY, which takes `--code`"),
        "method": Key("text", "st", "`kdcache list methods`; none: labels alone"),
        "taps": Key("text", "its own", "of a network of yours, as in [teacher]"),
        "T": Key("number", "the method's own", "temperature, of every part of the method that has one"),
        "label_smoothing": SMOOTHING,
        "mix": Key("text", "none", "labels, or as in labels:cutmix: images and stored answers mixed"),
        "cache": Key("text, or a list", "the only one", "a [[dump]] by name, or a file; several are joined"),
        "fraction": Key("number", "that of the recipe", "its own part of the training images, from the same cache"),
        "views": Key("whole number", "all of its cache", "reads the first so many of the renderings"),
        "seeds": Key("whole number, or a list", "that of the recipe", "trainings of this student"),
        "live": Key("true or false", "false", "with the teacher in the loop, not its stored answers"),
        "pseudo": Key("table", "none", "a made-up teacher in place of the real one"),
        "published": Key(
            "number, or table", "none", "its accuracy % elsewhere, for the table; of methods in a list: { st = 92.8 }"
        ),
        "source": Key("text", "none", "where that is published"),
        "series": Key("text", "none", "the line of the plot that it belongs to"),
        "x": Key("number, or text", "none", "its place in the plot: a number, or a key that holds it; else a level"),
        **OVERRIDES,
    },
    "pseudo": {
        "accuracy": Key("text", "0.9", "as `kdcache pseudo-teacher` takes it: 0.9, one a class, 0.6>0.9"),
        "confusion": Key("text", "none", "a file of a confusion matrix"),
        "like": Key("text", "none", "a cache or .npy file, whose accuracies and confusions are taken"),
        "errors": Key("text", "fixed", "fixed, or per-view: which rows are wrong"),
        "confidence": Key("text", "0.9", "0.9, a range 0.6,0.99, or beta:8,2"),
        "spread": Key("text", "uniform", "of the rest: uniform, similarity, or a concentration"),
        "shape": Key("text", "linear", "of a change over the views: linear, cosine or step"),
        "temperature": Key("number", "1.0", "of its logits"),
        "calibrated": Key("true or false", "false", "as right as it is sure"),
    },
    "pack": {"short": Key("whole number", "none", "images are shrunk until their shorter side is that long")},
    "plot": {
        "title": Key("text", "that of the recipe", "above the plot"),
        "x": Key("text", "none", "the name of the axis"),
    },
}  # fmt: skip


def check_keys(lines: Lines, table: dict) -> None:
    """Refuses what no part knows, since a misspelt key would silently be a default, and values of another type."""
    check_part(lines, "", table, (), "")
    for part in ("settings", "plot", "pack"):
        if isinstance(keys := table.get(part, {}), dict):
            check_part(lines, part, keys, (part,), f"[{part}]")
    for part in ("teacher", "dump"):
        for path, keys, header in tables(table, part):
            check_table(lines, part, keys, path, header)
    for number, student in enumerate(table.get("student", [])):
        path, header = ("student", number), "[[student]]"
        check_table(lines, "student", student, path, header)
        pseudo = student.get("pseudo", {})
        check_part(lines, "pseudo", pseudo, (*path, "pseudo"), f"{header} pseudo")
    place = lines.at(())
    if not table.get("student"):
        raise UsageError(place, "one [[student]] or more", "none", "write [[student]], and below it a method, say")
    if "cache" in table and "dump" in table:
        raise UsageError(lines.at(("dump",)), "no [dump] beside cache", "both", "leave one of them out")


def tables(table: Mapping, part: str) -> list[tuple[tuple, Any, str]]:
    """Of [teacher] and [dump], which may come once or as [[teacher]]: the path of each, what it holds, its header."""
    found = table.get(part, [])
    if isinstance(found, list):
        return [((part, number), keys, f"[[{part}]]") for number, keys in enumerate(found)]
    return [((part,), found, f"[{part}]")]


def check_table(lines: Lines, part: str, keys: object, path: tuple, header: str) -> None:
    if not isinstance(keys, dict):
        remedy = f"write [[{part}]] above its keys"
        raise UsageError(f"{lines.at(path)}, {header}", "a table", quoted(keys), remedy)
    check_part(lines, part, keys, path, header)


def check_part(lines: Lines, part: str, keys: Mapping, path: tuple, header: str) -> None:
    for key, value in keys.items():
        place = ", ".join(filter(None, (lines.at((*path, key)), header)))
        if key not in KEYS[part]:
            remedy = advice(key, KEYS[part], "docs/recipes.md explains them")
            raise UsageError(place, f"keys out of {', '.join(sorted(KEYS[part]))}", key, remedy)
        kind = KEYS[part][key].kind
        several = part == "student" and kind not in LISTS | {"table"} and isinstance(value, list) and value
        for one in value if several else [value]:
            check_value(f"{place} {key}".strip(), kind, one, key in SETTINGS)


def check_value(place: str, kind: str, value: object, setting: bool) -> None:
    wanted, fits = KINDS[kind]
    if not setting and not fits(value):  # settings say themselves what they take
        raise UsageError(place, wanted, quoted(value), f"write {wanted}")
