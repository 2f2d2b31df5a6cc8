"""Commands that make something: teachers, caches, students."""

from __future__ import annotations

import sys

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put, training_options
from kdcache.cli.frame import GOES_ON, RESUMES, as_typed, note
from kdcache.cli.pages import made, trained
from kdcache.cli.values import COUNT, SEED, SEEDS, Numbers, OneOf, Shard
from kdcache.errors import UsageError

METHOD = "`kdcache list methods`; none: labels. Weight, options: st:0.9:T=2; a variant: at/zoo; a sum: st+at."


@click.command(
    "train-teacher",
    cls=Command,
    together=True,
    goes_on=RESUMES,
    example="""
        kdcache train-teacher --model tiny-32
        kdcache train-teacher --model resnet110 --data cifar10 --epochs 200
    """,
)
@click.option("--model", metavar="M", required=True, help=common.MODELS)
@common.normalisation_options
@common.taps_option
@common.data_option
@common.fraction_option
@common.augment_option
@common.smoothing_option
@training_options
@json_option
def train_teacher(model, data, fraction, augment, label_smoothing, device, workers, runs, as_json, **rest):
    """Train a teacher; save it where dump-logits looks first."""
    from kdcache import jobs

    settings = common.settings_of(rest)
    normalisation = jobs.normalisation(rest.pop("mean"), rest.pop("std"))
    device = jobs.choose_device(device)
    opened = jobs.Data.open(data, augment, fraction, jobs.opening(bar))
    common.announce(opened, model)
    found = jobs.train_teacher(
        model, opened, settings, label_smoothing=label_smoothing, root=runs, **rest, normalisation=normalisation,
        device=device, workers=jobs.workers_for(opened, workers), progress=bar, remark=note,
    )  # fmt: skip
    put({"model": model, "data": opened.train.spec} | found, as_json, lines({"model": model} | found))


@click.command(
    "dump-logits",
    cls=Command,
    goes_on=GOES_ON,
    together=True,
    example="""
        kdcache dump-logits --teacher tiny-32 --views 30
        kdcache dump-logits --teacher resnet110 --data cifar10 --views all
        kdcache dump-logits --teacher tiny-32 --shard 2/4    # then `kdcache merge`
    """,
)
@click.option("--teacher", metavar="M", required=True, help=common.MODELS)
@common.weights_option
@common.normalisation_options
@common.taps_option
@common.data_option
@common.fraction_option
@common.augment_option
@common.views_option
@common.tolerance_option
@click.option("--method", metavar="M", default="st", show_default=True, help="What is stored: what these methods need.")
@click.option("--knowledge", metavar="T,T", help="Instead of --method: taps as they are, such as logits,emb,f2.post.")
@common.codecs_option
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Of the views: the same for teachers to be averaged."
)
@click.option(
    "--first-view",
    type=SEED,
    default=0,
    show_default=True,
    help="Number of the first view, to go on from another file.",
)
@click.option("-o", "--out", type=common.OUTPUT, default="logits.h5", show_default=True)
@click.option("--shard", type=Shard(), help="One of N machines without a common file system; a file of its own.")
@common.forward("--batch", type=COUNT, default=256, show_default=True, help="Images at once.")
@common.forward("--dtype", type=OneOf(["f32", "bf16"]), default="f32", show_default=True, help="bf16: autocast.")
@common.forward("--channels-last", is_flag=True, help="Memory layout.")
@common.forward("--tf32", is_flag=True, help="Allow TF32.")
@common.forward("--compile", "compiled", is_flag=True, help="torch.compile it.")
@common.device_option
@common.workers_option
@common.runs_option
@json_option
def dump_logits(teacher, weights, taps, data, fraction, augment, device, workers, runs, as_json, **rest):
    """Run the teacher once over every view; store its answers.

    Interrupted or killed, the same command goes on where it was. Ranks of torchrun fill one file together:
    docs/machines.md.
    """
    from kdcache import jobs

    device = jobs.choose_device(device)
    jobs.require_place(rest["out"])
    opened = jobs.Data.open(data, augment, fraction, jobs.opening(bar))
    opened.tolerate(rest.pop("tolerate_decoder"))
    common.announce(opened, teacher)
    normalisation = jobs.normalisation(rest.pop("mean"), rest.pop("std"))
    network = jobs.load_teacher(teacher, weights, opened, runs, normalisation, taps)
    chosen = jobs.dump_options(rest, device=device, workers=jobs.workers_for(opened, workers))
    with jobs.make_dump(network, opened, chosen) as dump:
        path = dump.run(bar)
    facts = jobs.facts_of(path)
    put(facts, as_json, made(facts))
    common.doubt(facts)


@click.command(
    "train-student",
    cls=Command,
    together=True,
    goes_on=RESUMES,
    example="""
        kdcache train-student --cache logits.h5 --student tiny --method st
        kdcache train-student --method none --student tiny        # the plain baseline
        kdcache train-student --cache logits.h5 --live --teacher tiny-32
        kdcache train-student --cache a.h5 --cache b.h5
        kdcache train-student --cache logits.h5 --method none --method st --seeds 3
    """,
)
@click.option(
    "--cache", "caches", type=common.FILE, metavar="F", multiple=True,
    help="What dump-logits made; it names its data and view. Several: more views of one teacher, or several teachers.",
)  # fmt: skip
@click.option(
    "--average", metavar="A",
    help="Of several teachers: logits, probability, or probability:T at a temperature.  [default: probability]",
)  # fmt: skip
@click.option("--average-weights", type=Numbers(), metavar="X,X", help="Of several teachers.  [default: equal]")
@click.option(
    "--student", "models", metavar="M", multiple=True,
    help="`kdcache list models`. Several: as many trainings.  [default: tiny for digits, else resnet20]",
)  # fmt: skip
@click.option("--method", "methods", metavar="M", multiple=True, default=("st",), show_default=True, help=METHOD)
@click.option("--seeds", type=SEEDS, default=1, show_default=True, help="So many of each, from --seed on.")
@click.option("--live", is_flag=True, help="With the teacher in the loop, for comparison.")
@click.option("--teacher", metavar="M", help="Whom --live asks [default: the cache's]; or pseudo:0.9, made up.")
@common.weights_option
@common.normalisation_options
@common.taps_option
@common.student_taps_option
@click.option(
    "--data", metavar="D", help="The images: `kdcache list sources`.  [default: those of --cache, else digits]"
)
@click.option(
    "--missing", type=OneOf(["refuse", "plain", "skip"]),
    help="Of --data beside --cache, images that it does not know by content; plain: labels alone.  [default: refuse]",
)  # fmt: skip
@common.tolerance_option
@common.fraction_option
@click.option(
    "--augment", metavar="A",
    help="The view; beside --cache, only to trust code of yours.  [default: the cache's, else the data's own]",
)  # fmt: skip
@click.option("--mix", metavar="labels", help="Mix images, and two stored answers: labels, or labels:mixup:A+cutmix:A.")
@click.option(
    "--views",
    type=COUNT,
    help="Views of each image before they repeat; of a cache, its first.  [default: all; without one, no end]",
)
@common.smoothing_option
@training_options
@json_option
def train_student(caches, models, methods, seeds, live, teacher, weights, taps, data, augment, fraction, runs, **rest):
    """Train a student on the pixels that the teacher saw.

    Several students, methods or seeds are as many trainings, each in a folder of its own. Those of one seed share a
    pipeline: an image is read, rendered and asked about once for all, and each ends in the weights of its lone run.
    Another seed orders the images otherwise, so its students follow.
    """
    from kdcache import jobs

    settings, as_json = common.settings_of(rest), rest.pop("as_json")
    of_cache = {"views": rest.pop("views")} if caches else {}
    average = rest["average"], rest["average_weights"]
    if (missing := rest.pop("missing")) and not (caches and data):
        raise UsageError("`missing`", "`data` beside a `cache`", "no such data", "leave it out")
    of_cache |= {"missing": missing or "refuse"} if caches else {}
    shown = {"source": jobs.opening(bar), "progress": bar}
    opened, store = jobs.open_data(caches, data, augment, fraction, *average, **of_cache, **shown)
    opened.tolerate(rest.pop("tolerate_decoder"))
    common.announce(opened, *models, teacher)
    fed = {"normalisation": jobs.normalisation(rest["mean"], rest["std"]), "taps": taps}
    views = store.views if store else rest.get("views") or settings.epochs
    who = {"live": live, "root": runs, "views": views}
    numbers = range(settings.seed, settings.seed + seeds)
    teachers = jobs.named_teachers(numbers, teacher, weights, store, opened, **who, **fed)
    options = {name: rest.get(name) for name in ("views", "mix", "device", "workers", "label_smoothing")}
    options["taps"] = rest["student_taps"]
    students = jobs.students_of(opened, models, methods, teachers, settings, **options)
    how = {"root": runs, "resume": rest["resume"], "restart": rest["restart"], "progress": bar}
    if len(students) == 1:
        found = jobs.train_student(students[0], out=rest["out"], remark=note, **how)
        put(found, as_json, lines(found))
        return
    if rest["out"]:
        remedy = "name a folder for all of them with `runs`"
        raise UsageError("`out`", "one training", f"{len(students)}, each of which has a folder", remedy)
    found = jobs.train_students(students, remark=note, **how)
    put({"students": found}, as_json, as_typed(trained(found)))
    sys.exit(1 if any("error" in one for one in found) else 0)


commands = (train_teacher, dump_logits, train_student)
