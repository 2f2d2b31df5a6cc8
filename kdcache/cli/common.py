"""What the commands share: options and output."""

from __future__ import annotations

import json
import math
from functools import partial

import click

from kdcache.cli.frame import Command, Option
from kdcache.cli.progress import bar
from kdcache.cli.values import COUNT, FILE, SEED, WORKERS, NewPath, Number, Numbers, OneOf, Shares, Views
from kdcache.cli.voice import say
from kdcache.measures import MEASURES
from kdcache.wording import printable

__all__ = ["Command", "bar", "json_option", "lines", "put", "say", "training_options"]


def put(facts: dict, as_json: bool, text: str) -> None:
    """The result: one JSON object, or lines for a person."""
    output = click.get_current_context().meta.get("output")
    click.echo(json.dumps(spelled(facts), allow_nan=False) if as_json else printable(text), file=output)


def spelled(value):
    """The same without NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): spelled(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(facts: dict) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {plain(name, value)}" for name, value in facts.items())


def plain(name: str, value) -> str:
    """A fact as people read it: one that is a measure, of a teacher or of the mean of the weights, too, in its unit."""
    measure = MEASURES.get(name.removeprefix("teacher_").removeprefix("ema_"))
    if measure and isinstance(value, int | float):
        return measure.text(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def options(*decorators):
    """Several options as one decorator."""

    def apply(function):
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


training = partial(click.option, cls=Option, section="Training")
forward = partial(click.option, cls=Option, section="The teacher's forward")
MODELS = "`kdcache list models`, torchvision:NAME, timm:NAME, hf-hub:USER/REPO, or MODULE:FACTORY."
OUTPUT, PACK, PICTURE = NewPath(kind="cache"), NewPath(kind="pack"), NewPath(kind="PNG picture")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
tolerance_option = click.option(
    "--tolerate-decoder", metavar="N", type=Number(whole=True, least=0, most=255, remedy="try 2"),
    help="Go on where files are decoded otherwise by at most N levels of 256.  [default: what rounding explains]",
)  # fmt: skip
RISE = "Epochs of the rise to --lr, at most half of them."
data_option = click.option("--data", metavar="D", help="The images: `kdcache list sources`.  [default: digits]")
moved_data_option = click.option(
    "--data", metavar="D", help="The images, where they lie elsewhere now.  [default: as in the file]"
)
device_option = click.option("--device", metavar="D", default="auto", show_default=True, help="cpu, cuda, cuda:1, …")
workers_option = click.option(
    "--workers",
    type=WORKERS,
    help="Processes that read and render; of packs, threads.  [default: 0 for small images in memory, else one a core]",
)
runs_option = click.option(
    "--runs", type=NewPath(folder=True), metavar="DIR", default="runs", show_default=True, help="Where runs are kept."
)
fraction_option = click.option(
    "--fraction",
    type=Number(above=0, most=1),
    default=1.0,
    show_default=True,
    help="A stratified part of the training images.",
)
augment_option = click.option(
    "--augment", metavar="A", help="The view: `kdcache list views`.  [default: the data's own]"
)
code_option = click.option(
    "--augment", metavar="A", help="The cache's view, to trust code of yours: torchvision:MODULE:FACTORY, say."
)
views_option = click.option(
    "--views", type=Views(), metavar="N|all", default="10", show_default=True, help="How many renderings of each image."
)
LOGITS = "Of the logits: auto, or `kdcache list codecs`"
codec_option = click.option("--codec", metavar="C", default="f16", show_default=True, help=f"{LOGITS}.")
codecs_option = click.option(
    "--codec", metavar="C", default="f16", show_default=True, help=f"{LOGITS}; f16,emb=int8: of embeddings, too."
)
weights_option = click.option(
    "--weights",
    type=FILE,
    metavar="F",
    help="The teacher's weights: a file, or pretrained.  [default: where train-teacher leaves them]",
)

taps_option = click.option(
    "--taps", metavar="T=P,…", help="The teacher's taps by module paths: f1=layer1,emb=avgpool. See check-model."
)
student_taps_option = click.option("--student-taps", metavar="T=P,…", help="The student's, as --taps.")
IN_WEIGHTS = "[default: as in its weights, else as its library or the data say]"
normalisation_options = options(
    click.option("--mean", type=Numbers(), metavar="R,G,B", help=f"Of the network's input, 0..1.  {IN_WEIGHTS}"),
    click.option("--std", type=Numbers(), metavar="R,G,B", help=f"Of the network's input, 0..1.  {IN_WEIGHTS}"),
)

# as in kdcache.train, unimported
OPTIMIZERS, SCHEDULES = ("sgd", "adam", "adamw", "dot"), ("cosine", "step", "onecycle")
FROZEN = "backbone: only the head is trained."
ACCUMULATED = "Parts that a batch is learnt in, for memory: --batch stays what a step sees."
AVERAGED = "Decay of a mean of the weights, evaluated and saved beside them, such as 0.999."
DELTA = "Of --optimizer dot: more momentum for the teacher's terms, and less for cross-entropy."
MILESTONES = "Of step: where the learning rate falls, as shares of the epochs."
OR_SCHEDULES = "Of the learning rate: cosine, step or onecycle."

training_options = options(
    training("--epochs", type=COUNT, default=30, show_default=True),
    training("--batch", type=Number(whole=True, least=2), default=128, show_default=True, help="Images of a step."),
    training("--accumulate", type=COUNT, default=1, show_default=True, help=ACCUMULATED),
    training("--optimizer", type=OneOf(OPTIMIZERS), default="sgd", show_default=True),
    training(
        "--lr", type=Number(above=0), help="The highest learning rate.  [default: 0.1 for sgd and dot, else 0.001]"
    ),
    training("--momentum", type=Number(least=0, below=1), default=0.9, show_default=True),
    training("--delta", type=Number(least=0, below=1), default=0.075, show_default=True, help=DELTA),
    training("--nesterov/--no-nesterov", default=True, show_default=True),
    training("--weight-decay", type=Number(least=0), default=5e-4, show_default=True),
    training("--betas", type=(Number(least=0, below=1),) * 2, default=(0.9, 0.999), show_default=True),
    training("--schedule", type=OneOf(SCHEDULES), metavar="S", default="cosine", show_default=True, help=OR_SCHEDULES),
    training("--warmup", type=Number(least=0), default=1.0, show_default=True, help=RISE),
    training("--milestones", type=Shares(), default="0.5,0.75", show_default=True, help=MILESTONES),
    training("--gamma", type=Number(above=0), default=0.1, show_default=True, help="Of step: the factor there."),
    training("--clip", type=Number(least=0), default=0.0, show_default=True, help="Largest gradient norm; 0: none."),
    training("--ema", type=Number(least=0, below=1), default=0.0, show_default=True, help=AVERAGED),
    training("--dtype", type=OneOf(["f32", "bf16"]), default="f32", show_default=True, help="bf16: autocast."),
    training("--channels-last", is_flag=True, help="Memory layout."),
    training("--compile", is_flag=True, help="torch.compile it: about a minute at first, faster steps."),
    training("--grad-checkpoint", is_flag=True, help="Less memory, a third more time: maps are computed twice."),
    training("--sync-bn", is_flag=True, help="Under torchrun: batch norm over the images of all processes."),
    training("--seed", type=SEED, default=0, show_default=True, help="Of fresh weights and of the order of images."),
    training(
        "--eval-every",
        type=COUNT,
        default=1,
        show_default=True,
        help="Evaluate after every so many epochs; the last is always evaluated.",
    ),
    training("--tensorboard", is_flag=True, help="Also an event file for TensorBoard, in the run's folder."),
    training("--init-from", metavar="F", help="Weights to begin with: a file, or pretrained, those of its library."),
    training("--freeze", type=OneOf(["nothing", "backbone"]), default="nothing", show_default=True, help=FROZEN),
    training(
        "--backbone-lr",
        type=Number(above=0),
        default=1.0,
        show_default=True,
        help="Factor on --lr for all but the head.",
    ),
    click.option("--resume", is_flag=True, help="Continue a run that was interrupted."),
    click.option("--restart", is_flag=True, help="Start over, and move such a run aside."),
    click.option(
        "-o",
        "--out",
        type=NewPath(folder=True, own=True),
        metavar="DIR",
        help="The run's folder.  [default: one below --runs]",
    ),
    device_option,
    workers_option,
    runs_option,
)

smoothing_option = training(
    "--label-smoothing", type=Number(least=0, below=1), default=0.0, show_default=True, help="Of the cross-entropy."
)


def settings_of(chosen: dict):
    """The training settings among a command's options, which leave the dict."""
    from kdcache.train import Settings

    names = Settings.__dataclass_fields__
    return Settings(**{name: chosen.pop(name) for name in list(chosen) if name in names})


def announce(data, *models: str | None) -> None:
    """What a user may not expect of the data, and what libraries say of these of their networks."""
    from kdcache.jobs import library_note

    for note in filter(None, (library_note(model, data) for model in models)):
        say(note)
    view = data.view.plain
    if getattr(view, "notice", ""):
        offered = getattr(view, "normalisation", None)
        mean, std = (",".join(f"{value:g}" for value in values) for values in offered or ((), ()))
        say(view.notice + (f"; for weights that were trained with it: --mean {mean} --std {std}" if offered else ""))


def doubt(facts: dict) -> None:
    """A word about a teacher that is hardly ever right; a made-up one was asked to be so."""
    from kdcache.proof.accuracy import doubt

    if facts["teacher"].get("kind") == "network" and (text := doubt(facts["accuracy"])):
        say(f"{facts['file']}: {text}")
