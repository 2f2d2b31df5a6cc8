"""DOT: two momenta of each parameter, as the authors' code moves them; which gradient goes into which."""

import pytest
import torch
from cli_cases import refused
from torch import nn
from train_cases import Fixture

from kdcache.errors import UsageError
from kdcache.jobs import Data, Student, taught_by
from kdcache.train import Settings
from kdcache.train.dot import Dot
from kdcache.train.gradients import Gradients
from kdcache.train.optim import make_optimizer

TEXTS = ["st", "vid+st", "kdsvd", "st+kdsvd", "dml"]


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", ["st", "vid", "kdsvd", "ab", "fsp"])


def reference(values, gradients, lrs, momentum, delta, decay):
    """Slow, number by number; gradients[step][parameter] = (task or None, taught or None)."""
    values, slow, fast = [[float(v) for v in row] for row in values], {}, {}
    for lr, step in zip(lrs, gradients, strict=True):
        for n, (task, taught) in enumerate(step):
            for i in range(len(values[n])):
                one = task is None or taught is None
                if task is not None:
                    g = float(task[i]) + decay * values[n][i]
                    m = momentum if one else momentum - delta
                    slow[n, i] = m * slow[n, i] + g if (n, i) in slow else g
                    values[n][i] -= lr * slow[n, i]
                if taught is not None:
                    g = float(taught[i])
                    m = momentum if one else momentum + delta
                    if task is None and (n, i) in fast:
                        g += decay * values[n][i]
                    fast[n, i] = m * fast[n, i] + g if (n, i) in fast else g
                    values[n][i] -= lr * fast[n, i]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("given", [{}, {"delta": 0.0}, {"momentum": 0.0, "delta": 0.0}, {"weight_decay": 0.0}], ids=str)
def test_several_steps_are_those_of_the_formula(given):
    """Of parameters that both gradients reach, that one of them reaches, and that one begins to reach later."""
    generator = torch.Generator().manual_seed(3)
    start, found = torch.randn(4, 3, generator=generator).double(), []
    for step in range(6):
        task, taught = torch.randn(2, 4, 3, generator=generator).double()
        late = taught[3] if step > 2 else None
        found.append([(task[0], taught[0]), (task[1], None), (None, taught[2]), (task[3], late)])
    settings = Settings(optimizer="dot", **{"weight_decay": 0.01} | given)
    parameters = [nn.Parameter(row.clone()) for row in start]
    optimizer, lrs = make_optimizer(parameters, settings), [0.1, 0.2, 0.05, 0.05, 0.1, 0.01]
    for lr, step in zip(lrs, found, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        for parameter, (task, _) in zip(parameters, step, strict=True):
            parameter.grad = task
        optimizer.taught = {p: taught for p, (_, taught) in zip(parameters, step, strict=True) if taught is not None}
        optimizer.step()
        assert not optimizer.taught
    expected = reference(start, found, lrs, settings.momentum, settings.delta, settings.weight_decay)
    torch.testing.assert_close(torch.stack([*parameters]).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_cross_entropy_is_told_apart_and_both_are_the_whole(same, text):
    student = same.student(text, optimizer="dot")
    with student.ready() as ([trainer], feed, _):
        trainer.begin(1)
        [batch, *_] = feed.loader.run([torch.arange(16).numpy()], 1)
        with trainer.watching():
            terms, clipped = trainer.terms(trainer.looks_of(batch), feed.answers(batch), batch)
        ce = sum(value for name, value in terms.items() if name.startswith("ce"))
        task = torch.autograd.grad(ce, trainer.trained, retain_graph=True, allow_unused=True)
        found = {}
        for two in (False, True):
            gradients = Gradients(trainer.trained, two)
            kept = {name: value.clone() for name, value in terms.items()}  # each frees its own part of the graph alone
            gradients.add(kept, clipped, 1.0, "main") if two else retained(gradients, kept, clipped)
            gradients.finish(3)
            found[two] = [p.grad for p in trainer.trained], [gradients.taught.get(p) for p in trainer.trained]
            gradients.clear()
    for whole, mine, taught, expected in zip(found[False][0], *found[True], task, strict=True):
        assert (mine is None) == (expected is None)
        assert mine is None or torch.equal(mine, expected)
        total = sum(part for part in (mine, taught) if part is not None)
        torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)
    assert any(value is not None and value.norm() > 0 for value in found[True][1])


def retained(gradients, terms, clipped):
    """`add`, of terms whose graph is needed once more."""
    plain = torch.Tensor.backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", lambda self: plain(self, retain_graph=True))
        gradient = torch.autograd.grad
        patch.setattr(torch.autograd, "grad", lambda *a, **k: gradient(*a, **k | {"retain_graph": True}))
        gradients.add(terms, clipped, 1.0, "main")


def test_both_momenta_move_a_training(same):
    def weight(**settings):
        return same.student("st", epochs=1, **settings).train()[0][0].body.fc.weight

    apart, together, plain = weight(optimizer="dot"), weight(optimizer="dot", delta=0.0), weight(nesterov=False)
    assert not torch.allclose(apart, together, rtol=1e-4)
    torch.testing.assert_close(together, plain, rtol=1e-3, atol=1e-5)  # two momenta of one size are one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "1 ce; take sgd"),
        ("ab", ".*without cross-entropy; give cross-entropy a weight"),
        ("fsp:ce=1", ".*; take sgd"),
    ],
)
def test_one_loss_is_refused(same, text, message):
    expected = "`optimizer` dot: expected a loss of cross-entropy and of other terms"
    with pytest.raises(UsageError, match=f"{expected}, found {message}"):
        same.student(text, optimizer="dot").train()


def test_images_without_labels_have_one_loss(same):
    data = Data.open("synthetic:16,4,16", "crop-flip")
    data.train.labels[:] = -1
    with pytest.raises(UsageError, match=r"`optimizer`: expected images with labels, found .* for dot"):
        Student(data, "resnet8", "st", Settings(optimizer="dot"), taught_by(None, same.network)).train()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"clip": 1.0}, "`clip`: expected 0 with"), ({"delta": 0.2}, "`delta`: .*momentum. . delta below 1"),
     ({"momentum": 0.0}, "`delta`: expected `momentum` - delta from 0")],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Settings(optimizer="dot", **given)
    Settings(**given)


def test_the_command_refuses_a_teacher_by_dot(in_tmp):
    line = "train-teacher --data synthetic:16,4,8 --model tiny-2 --epochs 1 --optimizer dot"
    refused(line, 2, "a loss of cross-entropy and of other terms", "take sgd")


def test_what_is_not_asked_is_told_of_no_run():
    assert "delta" not in Settings().to_json()
    assert Settings(optimizer="dot", delta=0.09).changed() == {"optimizer": "dot", "delta": 0.09}


def test_a_backbone_learns_at_its_own_rate():
    slow, quick = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make_optimizer([slow, quick], Settings(optimizer="dot", backbone_lr=0.5), {slow})
    assert isinstance(optimizer, Dot)
    assert sorted(group.get("factor", 1.0) for group in optimizer.param_groups) == [0.5, 1.0]
