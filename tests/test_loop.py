"""The loop itself: what a step computes, waits for, holds on to, and what it does when something is lost."""

import copy
import gc
import json
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from train_cases import SPEC, Fixture, asks, assert_same_weights, measured

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.errors import KdcacheError, UsageError
from kdcache.jobs import Data
from kdcache.measures import MEASURES, NUMBERS
from kdcache.methods import METHODS, build, clipped_gradients
from kdcache.models import build as build_network
from kdcache.models.weights import load
from kdcache.runs import Run
from kdcache.teachers import no_teacher
from kdcache.train import Evaluation, Settings, evaluate, figures, fit
from kdcache.train.average import Average
from kdcache.train.gradients import Gradients
from kdcache.train.made import made
from kdcache.train.trainer import Trainer
from kdcache.types import Batch


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", [name for name in METHODS if asks(name)])


def trainer_of(fixture, text, **settings):
    """A trainer that is ready for a step, some batches, and what answers them."""
    student = fixture.student(text, **settings)
    with student.ready() as ([trainer], feed, _):
        trainer.begin(1)
        return trainer, list(feed.loader.run([range(0, 16), range(16, 32), range(32, 48)], 1)), feed.answers


@pytest.mark.parametrize("text", ["kdsvd:1e6", "kdeid:1e6", "mhgd:1e6", "st+kdsvd:1e6"])
def test_clipped_terms_never_pull_harder_than_the_rest(same, text):
    trainer, [batch, *_], answers = trainer_of(same, text)
    with trainer.watching():
        look = trainer.looks[0](batch.images)
        terms = trainer.method.loss(look, answers(batch), batch)
        held = {name: value for name, value in terms.items() if name in trainer.method.clipped}
        assert held.keys() == {text.removesuffix(":1e6").split("+")[-1]}
        rest = sum(value for name, value in terms.items() if name not in held)
        plain = torch.autograd.grad(rest, trainer.trained, retain_graph=True)
        trainer.gradients.add(terms, set(held), 1.0, "main")
        trainer.gradients.finish(batch.epoch)
    for parameter, gradient in zip(trainer.trained, plain, strict=True):
        added = (parameter.grad - gradient).norm()
        assert added <= 0.5 * gradient.norm() * (1 + 1e-4)  # the ramp of the first epoch
    assert any(not torch.equal(p.grad, g) for p, g in zip(trainer.trained, plain, strict=True))


@pytest.mark.parametrize("text", ["none:ce=0", "ab/rep:ce=0", "kdsvd:ce=0", "fsp:ce=0"])
def test_a_loss_of_nothing_is_refused(same, text):
    with pytest.raises(UsageError, match="expected a loss to minimise"):
        same.student(text).train()


def test_the_same_seed_gives_the_same_weights_whatever_the_generator_says(same):
    """With connectors, which are drawn from torch's generator."""
    outcomes = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        outcomes.append(same.student("vid+st", seed=3).train())
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    other, _ = same.student("vid+st", seed=4).train()
    assert not torch.equal(other[0].body.fc.weight, outcomes[0][0][0].body.fc.weight)


class Dropping(nn.Module):
    """A body with dropout."""

    def __init__(self, classes):
        super().__init__()
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(3 * 16 * 16, classes)

    def forward(self, x):
        return self.fc(self.dropout(x.flatten(1)))


def test_dropout_depends_on_the_seed_alone(same):
    weights = []
    for state, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        network = build_network(f"{__name__}:Dropping", 4, same.data.train.mean, same.data.train.std, seed=0)
        loader = Loader(same.data.train, same.data.view, 0)
        fit([network], build("none"), no_teacher, loader, 2, Settings(epochs=2, batch=16, seed=seed))
        weights.append(network.body.fc.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Counted(TorchDispatchMode):
    """Counts the operators that wait for a device."""

    waiting = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.waiting += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"clip": 1.0, "optimizer": "adamw"}, {"dtype": "bf16"}], ids=str)
@pytest.mark.parametrize(
    "text", ["st+at", "vid", "kdsvd", "mhgd", "fsp", "dkd", "rkd", "co", "ctkd", "hard", "rld", "wkd", "uskd+bkd"]
)
def test_a_step_waits_for_nothing(same, text, settings):
    trainer, [first, second, _], answers = trainer_of(same, text, **settings)
    with trainer.watching():
        trainer.step(first, answers(first))
        with Counted() as counted:
            trainer.step(second, answers(second))
    assert counted.waiting == 0


@pytest.mark.parametrize("text", ["st+at", "vid", "kdsvd", "fsp", "fitnet/paper"])
def test_nothing_holds_the_graph_between_steps(same, text):
    trainer, batches, answers = trainer_of(same, text)
    kept = []
    look_of = trainer.method.loss

    def loss(look, *rest):
        terms = look_of(look, *rest)
        kept.extend(weakref.ref(value) for value in (*look.values(), *terms.values()))
        return terms

    trainer.method.loss = loss
    with trainer.watching():
        terms = trainer.step(batches[0], answers(batches[0]))
        assert all(value.grad_fn is None for value in terms.values())
        gc.collect()
        assert kept
        assert [ref() for ref in kept if ref() is not None] == []
        Evaluation(Loader(same.data.train, same.data.view, 0))(trainer.students[0])
    assert all(p.grad is None for p in trainer.trained)


def test_evaluating_leaves_every_part_in_its_mode(same):
    network = same.data.network("resnet8", 0).train()
    network.body.bn1.eval()
    same.data.evaluation(None, "cpu", 0)(network)
    assert network.body.layer1.training
    assert not network.body.bn1.training


def test_a_watcher_keeps_nothing_of_an_evaluation(same):
    seen = []
    trainer, _, _ = trainer_of(same, "at")
    with trainer.watching():
        network = trainer.students[0]
        network.body.layer1.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
        same.data.evaluation(None, "cpu", 0)(network)
        gc.collect()
        assert [ref() for ref in seen] == [None]


def test_losing_the_loss_is_told_and_the_last_good_state_stays(same, tmp_path):
    def poisoned(items, total, desc):
        for number, batch in enumerate(items):
            if desc.startswith("epoch 3") and number == 1:
                with torch.no_grad():
                    student.fc.bias.fill_(torch.nan)
            yield batch

    folder = tmp_path / "run"
    network = same.data.network("resnet8", 0)
    student = network.body
    loader = Loader(same.data.train, same.data.view, 0)
    settings = Settings(epochs=4, batch=16)
    with pytest.raises(KdcacheError, match="expected a finite loss, found nan in epoch 3; try a smaller `lr`"):
        fit([network], build("none"), no_teacher, loader, 2, settings, None, Run(folder, {}), poisoned)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert load(folder / "last.safetensors").facts["epoch"] == 2
    assert all(value.isfinite().all() for value in load(folder / "last.safetensors").state_dict().values())
    network = same.data.network("resnet8", 0)
    records = fit([network], build("none"), no_teacher, loader, 2, settings, None, Run(folder, {}, True))
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]


def test_weights_that_are_lost_in_the_last_step_are_not_saved(same, tmp_path, monkeypatch):
    def stepping(self, *args):
        found = step(self, *args)
        with torch.no_grad():
            self.students[0].body.fc.bias.fill_(torch.inf)
        return found

    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", stepping)
    with pytest.raises(KdcacheError, match="finite"):
        same.student("none", batch=49, epochs=1).train(Run(tmp_path / "run", {}))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_bf16_trains_on_a_cpu_and_keeps_its_weights_in_f32(same):
    (network,), records = same.student("st+at", dtype="bf16").train()
    _, exact = same.student("st+at").train()
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert records[-1]["total"] == pytest.approx(exact[-1]["total"], rel=0.1)
    assert records[-1]["total"] != exact[-1]["total"]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["st+at", "vid"])
def test_compiling_changes_rounding_alone(same, text):
    _, plain = same.student(text).train()
    (student,), records = same.student(text, compile=True).train()
    assert [r["total"] for r in records] == pytest.approx([r["total"] for r in plain], rel=1e-3)
    (live,), _ = same.student(text, compile=True, live=True).train()
    assert_same_weights(student, live)


@pytest.mark.parametrize("text", ["st+at", "kdsvd"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_channels_last_changes_rounding_alone(same, text, optimizer):
    settings = {"optimizer": optimizer, "lr": 1e-3, "epochs": 1}
    (plain,), _ = same.student(text, **settings).train()
    (other,), _ = same.student(text, channels_last=True, **settings).train()
    a, b, start = (
        torch.cat([p.flatten() for p in n.parameters()]) for n in (plain, other, same.data.network("resnet8", 0))
    )
    assert 0 < (a - b).norm() <= 0.05 * (a - start).norm()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_clipped_gradient_has_the_layout_of_its_parameter(same, monkeypatch, optimizer):
    """Fused optimisers walk through memory without looking at strides, and would mix up the weights."""
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        trainer, [batch, *_], answers = trainer_of(same, "kdsvd", channels_last=True, optimizer=optimizer)

        def gradients(first, second, epoch, layout=layout):
            return [g.contiguous(memory_format=layout) if g is not None and g.ndim == 4 else g for g in first]

        monkeypatch.setattr("kdcache.train.gradients.clipped_gradients", gradients)
        with trainer.watching():
            trainer.step(batch, answers(batch))
        weights.append(trainer.students[0])
    assert_same_weights(*weights)


def test_label_smoothing_reaches_the_teachers_loss(tmp_path):
    data = Data.open(SPEC, None)
    settings = Settings(epochs=1, batch=16)
    found = jobs.train_teacher("tiny", data, settings, label_smoothing=0.1, root=tmp_path)
    assert found["epochs"] == 1
    network = data.network("tiny", 0)
    loader = Loader(data.train, data.view, 0)
    records = fit([network], build("ls:0.1"), no_teacher, loader, 1, settings)
    logits, targets = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    terms = build("ls:0.1").loss({"logits": logits}, {}, Batch(None, targets, targets.numpy(), len(targets)))
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(sum(terms.values()), expected)
    assert records[0]["loss"].keys() == {"ce", "ls"}
    assert_same_weights(load(found["weights"]), network)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0])
def test_label_smoothing_is_a_share(tmp_path, value):
    with pytest.raises(UsageError, match="`label_smoothing`"):
        jobs.train_teacher("tiny", Data.open(SPEC, None), Settings(), label_smoothing=value, root=tmp_path)
    assert not any(tmp_path.iterdir())


def test_evaluate_says_all_there_is_to_say(same, tmp_path):
    same.student("st", epochs=1).train(Run(tmp_path / "run", {}))
    found = jobs.evaluate(tmp_path / "run" / "best.safetensors", None, None, same.cache.path, "cpu", 0)
    told, absent = ["model", "data", "rows", "view", "size", "classes"], ("top5", "finite")  # four classes, all sound
    measured = [name for name, one in MEASURES.items() if one.compute and name not in absent]
    assert list(found) == told + measured
    assert found["rows"] == len(same.data.held_out)


def test_without_evaluation_images_nothing_is_measured_of_them(same, tmp_path):
    none = same.data.held_out.take([])
    student = same.student("st")
    student.data = Data(same.data.train, none, same.data.view)
    _, records = student.train(Run(tmp_path / "run", {}))
    assert "top1" not in records[-1]
    best = load(tmp_path / "run" / "best.safetensors").facts["epoch"]
    assert best == min(records, key=lambda record: record["total"])["epoch"]


@pytest.mark.parametrize("text", ["st", "ab"])
def test_without_accuracy_the_best_agrees_most_with_the_teacher_or_is_of_the_last_stage(
    same, tmp_path, monkeypatch, text
):
    student = same.student(text, epochs=5)
    student.data = Data(same.data.train, same.data.held_out.take([]), same.data.view)
    totals = iter([1.0, 5.0, 4.0, 3.0, 3.5] if text == "ab" else [5.0, 4.0, 3.0, 2.0, 1.0])
    ended, shares = Trainer.ended, iter([0.1, 0.5, 0.9, 0.4, 0.2])
    more = {} if text == "ab" else {"agreement": None}

    def record(self, images):
        return ended(self, images) | {"total": next(totals)} | {name: next(shares) for name in more}

    monkeypatch.setattr(Trainer, "ended", record)
    student.train(Run(tmp_path / "run", {}))
    assert load(tmp_path / "run" / "best.safetensors").facts["epoch"] == (4 if text == "ab" else 3)


def test_gradients_that_a_module_brings_along_have_no_part(same):
    first, second = (same.student("st").begun(0) for _ in range(2))
    for parameter in second.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights = []
    for network in (first, second):
        trainer, batches, answers = trainer_of(same, "st")
        trainer = Trainer([network], trainer.method, trainer.settings, trainer.device)
        trainer.begin(1)
        with trainer.watching():
            trainer.learn(batches[0], answers(batches[0]), 0.5)
        weights.append(network)
    assert_same_weights(*weights)


def test_parts_without_a_clipped_term_have_their_gradient_too():
    w = [nn.Parameter(torch.tensor([1.0, 2.0]))]
    gradients = Gradients(w)
    gradients.add({"ce": (w[0] * 3).sum(), "kdsvd": w[0].square().sum()}, {"kdsvd"}, 0.5, "main")
    gradients.add({"ce": (w[0] * 5).sum()}, {"kdsvd"}, 0.5, "main")
    whole = clipped_gradients([torch.tensor([4.0, 4.0])], [torch.tensor([1.0, 2.0])], 1)
    gradients.finish(1)
    torch.testing.assert_close(w[0].grad, whole[0])


def test_weights_that_parts_of_a_network_share_are_saved_and_averaged_once(same, tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.again = nn.Linear(3 * 16 * 16, 4)

        def forward(self, images):
            return self.first(images.flatten(1)) + self.again(images.flatten(1))

    student = replace(same.student("st", epochs=2, ema=0.5), model=Twice())
    [network], _ = student.train(Run(tmp_path / "run", {}))
    average = Average(network, 0.5)
    assert len(average.means) == len({value.data_ptr() for value in average.network.state_dict().values()})


def test_a_record_holds_what_was_measured_of_training_and_evaluation(same):
    _, [record, _] = same.student("st").train()
    assert list(record)[:6] == ["epoch", "stage", "lr", "loss", "total", "train_top1"]
    assert record.keys() >= {"top1", "agreement", "nll", "ece", "kl", "images_per_second"}
    assert 0 <= record["train_top1"] <= 1
    assert record["seconds"] >= record["train_seconds"]


def test_the_training_accuracy_is_that_of_the_batches(same):
    trainer, batches, answers = trainer_of(same, "st")
    with trainer.watching():
        right = 0
        for batch in batches:
            before = copy.deepcopy(trainer.students[0]).train()
            trainer.students[0].train()
            right += int((before(batch.images).argmax(1) == batch.targets).sum())
            trainer.step(batch, answers(batch))
    assert trainer.seen.tolist() == [right, 48]


@pytest.mark.parametrize(("every", "judged"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_evaluated_are_some_epochs_and_the_last(same, tmp_path, every, judged):
    run = Run(tmp_path / "run", {})
    networks, records = same.student("none", epochs=5, eval_every=every).train(run)
    assert [record["epoch"] for record in records if "top1" in record] == judged
    best = load(run.path("best.safetensors")).facts
    assert best["epoch"] in judged
    assert best["top1"] == max(record.get("top1", -1) for record in records)
    plain, _ = same.student("none", epochs=5).train()
    assert_same_weights(networks[0], plain[0])


def test_a_run_goes_on_with_another_rhythm_of_evaluation(same, tmp_path):
    facts = [same.student("none", eval_every=every).settings.to_json() for every in (1, 2)]
    assert facts[0] == facts[1]


def test_evaluation_images_are_rendered_once_if_they_fit(same, monkeypatch):
    evaluation = same.data.evaluation(None, "cpu", 0)
    network, rendered = same.data.network("resnet8", 0), []
    show = Loader.show
    monkeypatch.setattr(Loader, "show", lambda self, *rest: rendered.append(rest) or show(self, *rest))
    first = evaluation.logits(network)
    assert rendered
    rendered.clear()
    assert torch.equal(evaluation.logits(network), first)
    assert rendered == []
    monkeypatch.setattr(evaluate, "LARGEST_KEPT", 0)
    evaluation = same.data.evaluation(None, "cpu", 0)
    for _ in range(2):
        rendered.clear()
        assert torch.equal(evaluation.logits(network), first)
        assert rendered


def test_a_line_is_told_at_the_end_of_each_epoch(same):
    told = []
    same.student("st").train(remark=told.append)
    assert [text.partition(":")[0] for text in told if ": " in text][-4:] == [
        "loss", "evaluation", "epoch 1/2", "epoch 2/2",
    ]  # fmt: skip
    assert told[-2].endswith(" left")


def test_run_json_holds_the_figures_of_the_end(same, tmp_path):
    run = Run(tmp_path / "run", {"some": "facts"})
    [network], records = same.student("st").train(run)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    found = json.loads(run.path("run.json").read_text())
    sizes = {"parameters": parameters, "cache_bytes": same.cache.path.stat().st_size}
    assert found == {"some": "facts", "result": figures(records) | sizes, "made": made(torch.device("cpu"))}
    assert found["result"]["top1"] == records[-1]["top1"]


def test_the_last_evaluation_is_kept_whole(same, tmp_path):
    run = Run(tmp_path / "run", {})
    _, records = same.student("st").train(run)
    kept = json.loads(run.path("evaluation.json").read_text())
    said = jobs.evaluate(run.path("last.safetensors"), None, None, same.cache.path, "cpu", 0)
    assert kept == {name: value for name, value in said.items() if name in MEASURES or name == "classes"}
    assert numbers_of(kept) == numbers_of(records[-1])
    run.path("evaluation.json").unlink()
    same.student("st").train(Run(tmp_path / "run", {}, resume=True))  # killed before it was written
    assert json.loads(run.path("evaluation.json").read_text()) == kept


def numbers_of(facts: dict) -> dict:
    return {name: facts[name] for name in NUMBERS if name in facts}
