"""Optimisers against torch's own, schedules at the places that matter, and settings that cannot be meant."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cli_cases import CPU, DATA, DUMP, STUDENT, TEACHER, WEIGHTS
from recipe_cases import write
from torch import nn

from kdcache.errors import UsageError
from kdcache.train import Settings
from kdcache.train.optim import lr_at, make_optimizer


def problem(seed=0):
    """A matrix and a bias that are to fit noise."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias, x, y = (torch.randn(*shape, generator=generator) for shape in ((3, 5), (3,), (20, 5), (20, 3)))
    return nn.Parameter(weight), nn.Parameter(bias), x, y


def solved(make, steps=25):
    weight, bias, x, y = problem()
    optimizer = make([weight, bias])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        nn.functional.mse_loss(nn.functional.linear(x, weight, bias), y).backward()
        optimizer.step()
        for p in (weight, bias):
            p.grad = None
    return torch.cat([weight.flatten(), bias]).detach()


REFERENCES = {
    "sgd": ({}, lambda ps: torch.optim.SGD(ps, 1, 0.9, weight_decay=0.01, nesterov=True)),
    "sgd without nesterov": ({"nesterov": False}, lambda ps: torch.optim.SGD(ps, 1, 0.9, weight_decay=0.01)),
    "sgd without momentum": ({"momentum": 0.0}, lambda ps: torch.optim.SGD(ps, 1, weight_decay=0.01)),
    "adam": ({"optimizer": "adam"}, lambda ps: torch.optim.Adam(ps, 1, weight_decay=0.01)),
    "adam with betas": (
        {"optimizer": "adam", "betas": (0.5, 0.9)},
        lambda ps: torch.optim.Adam(ps, 1, (0.5, 0.9), weight_decay=0.01),
    ),
    "adamw": (
        {"optimizer": "adamw"},
        lambda ps: torch.optim.AdamW([{"params": ps[:1], "weight_decay": 0.01}, {"params": ps[1:]}], 1, weight_decay=0),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_an_optimiser_is_torchs_own(name):
    settings, reference = REFERENCES[name]
    ours = solved(lambda ps: make_optimizer(ps, Settings(weight_decay=0.01, **settings)))
    torch.testing.assert_close(ours, solved(reference), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, solved(lambda ps: torch.optim.SGD(ps, 1)), rtol=1e-3)


def test_weight_decay_spares_biases_and_norms_under_adamw_alone():
    network, decays = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), {}
    for name in ("sgd", "adam", "adamw"):
        groups = make_optimizer(network.parameters(), Settings(optimizer=name, weight_decay=0.1)).param_groups
        decays[name] = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {"sgd": {4: 0.1, 1: 0.1}, "adam": {4: 0.1, 1: 0.1}, "adamw": {4: 0.1, 1: 0.0}}


def test_what_is_frozen_is_left_alone():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network[0].requires_grad_(False)
    [group] = make_optimizer(network.parameters(), Settings()).param_groups
    assert [tuple(p.shape) for p in group["params"]] == [(2, 4), (2,)]
    with pytest.raises(UsageError, match="a network with weights to train"):
        make_optimizer(network[0].parameters(), Settings())


TRAINED = """
import sys, torch
from kdcache.train import Settings
from kdcache.train.optim import make_optimizer
for name in ("sgd", "adam", "adamw", "dot"):
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)
    optimizer = make_optimizer([p], Settings(optimizer=name))
    optimizer.step()
    optimizer.zero_grad()
    assert p.sum() < 0 and p.grad is None
from kdcache.cli import main
for line in sys.argv[1:]:
    try:
        assert not main(line.split(), standalone_mode=False), line
    except SystemExit as end:
        assert not end.code, line
print([name for name in ("torch._dynamo", "sympy", "torchvision", "albumentations") if name in sys.modules])
"""


def test_neither_optimisers_nor_commands_import_torchs_compiler(in_tmp):
    """Which takes longer than a small dump: layers between us and torch may ask for it, and need not.

    Torch takes it for any arithmetic on the device `meta`.
    """
    write('model = "tiny-2"', 'model = "resnet18"', "a.toml")  # larger than what may be built before its size is known
    live = f"{STUDENT} --cache a.h5 --live --teacher tiny-3"
    lines = [
        TEACHER,
        f"{DUMP} -o a.h5",
        live,
        f"verify a.h5 --teacher tiny-3 {CPU}",
        f"evaluate {WEIGHTS} {DATA} {CPU}",
        "run a.toml --dry-run",
    ]
    done = subprocess.run([sys.executable, "-c", TRAINED, *lines], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def rates(settings, epochs, steps=100):
    return [lr_at(settings, n / steps, epochs) for n in range(epochs * steps)]


COSINE = Settings(lr=0.4, warmup=2.0)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.004), (0.5, 0.1), (1, 0.2), (2, 0.4), (6, 0.2), (8, 0.2 * (1 + math.cos(0.75 * math.pi))), (10, 0)],
)
def test_cosine_rises_in_a_line_and_falls_as_half_a_cosine(epoch, expected):
    assert lr_at(COSINE, epoch, 10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.002), (1, 0.2), (4.99, 0.2), (5, 0.02), (7.49, 0.02), (7.5, 0.002), (9.99, 0.002)]
)
def test_step_falls_at_its_milestones(epoch, expected):
    assert lr_at(Settings(lr=0.2, schedule="step"), epoch, 10) == pytest.approx(expected)


def test_step_has_the_milestones_and_the_factor_that_are_asked_for():
    settings = Settings(lr=1.0, schedule="step", milestones=(0.2, 0.4, 0.8), gamma=0.5, warmup=0)
    assert [lr_at(settings, epoch, 10) for epoch in (0, 2, 4, 8)] == [1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("epochs", [1, 10])
def test_onecycle_is_that_of_torch(epochs):
    """Ours is a function of the epoch; torch counts steps, of which the first and the last are the ends."""
    steps = 1000 * epochs
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, steps, cycle_momentum=False)
    settings, found, expected = Settings(lr=0.5, schedule="onecycle"), [], []
    for step in range(steps):
        found.append(lr_at(settings, epochs * step / (steps - 1), epochs))
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        if step < steps - 1:
            reference.step()
    assert found == pytest.approx(expected, abs=2e-3)
    assert (found[0], found[-1]) == pytest.approx((expected[0], expected[-1]))
    assert max(found) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "step", "onecycle"])
@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.0, 1.0, 50.0])
def test_a_rate_rises_once_falls_afterwards_and_is_never_zero(schedule, epochs, warmup):
    """However long the warm-up, half of the epochs are left for training."""
    found = rates(Settings(epochs=50, lr=0.3, schedule=schedule, warmup=warmup), epochs)
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert all(0 < rate <= 0.3 for rate in found)
    assert max(found) == pytest.approx(0.3, rel=0.03)
    assert top <= len(found) // 2


@pytest.mark.parametrize(("optimizer", "expected"), [("sgd", 0.1), ("dot", 0.1), ("adam", 0.001), ("adamw", 0.001)])
def test_the_rate_depends_on_the_optimiser_unless_it_is_told(optimizer, expected):
    settings = Settings(optimizer=optimizer)
    assert settings.top_lr == expected
    assert replace(settings, lr=0.5).top_lr == 0.5


BAD = [
    ("epochs", 0, "`epochs`: expected a whole number from 1"), ("epochs", 1.5, "`epochs`"), ("epochs", "3", "`epochs`"),
    ("batch", 1, "`batch`: expected a whole number from 2"), ("lr", 0, "`lr`: expected a number above 0"),
    ("lr", math.nan, "`lr`"), ("lr", math.inf, "`lr`"), ("lr", "fast", "`lr`"),
    ("momentum", 1, "`momentum`: expected a number from 0 and below 1"), ("momentum", -0.1, "`momentum`"),
    ("weight_decay", -1e-4, "`weight_decay`"), ("weight_decay", None, "`weight_decay`"), ("warmup", -1, "`warmup`"),
    ("warmup", math.nan, "`warmup`"), ("clip", -1, "`clip`"), ("gamma", 0, "`gamma`"), ("seed", -1, "`seed`"),
    ("seed", 2**63, "`seed`"), ("betas", (0.9,), "`betas`: expected two numbers"), ("betas", (0.9, 1), "`betas`"),
    ("betas", 0.9, "`betas`"), ("milestones", (60, 120), "`milestones`.*shares of the epochs"),
    ("milestones", "0.5", "`milestones`"), ("optimizer", "lion", "`optimizer`: expected one of sgd, adam, adamw"),
    ("schedule", "linear", "`schedule`"), ("dtype", "f16", "`dtype`"), ("nesterov", "no", "`nesterov`"),
    ("channels_last", 1, "`channels_last`"), ("compile", "yes", "`compile`"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
def test_bad_settings_are_refused_by_name(name, value, message):
    with pytest.raises(UsageError, match=message):
        Settings(**{name: value})


def test_settings_are_what_json_gives_back():
    """So that a run that was begun from a file of settings can be compared with one from a command."""
    settings = Settings(epochs=3.0, lr=1, betas=[0.8, 0.9], milestones=[0.5])
    assert settings == Settings(epochs=3, lr=1.0, betas=(0.8, 0.9), milestones=(0.5,))
    assert isinstance(settings.epochs, int)
    assert Settings(**settings.to_json()) == settings


def test_a_warmup_beyond_the_end_is_refused_in_python_too():
    with pytest.raises(UsageError, match="at most all 3 epochs"):
        Settings(epochs=3, warmup=50)


def test_a_parameter_may_have_its_first_gradient_later():
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make_optimizer([p, q], Settings(lr=0.1, weight_decay=0.0, nesterov=False))
    for gradients in ((1.0, None), (1.0, 2.0), (1.0, 2.0)):
        for one, value in zip((p, q), gradients, strict=True):
            one.grad = None if value is None else torch.full((2,), value)
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((2,), 1 - 0.1 * (1 + 1.9 + 2.71)))
    torch.testing.assert_close(q.detach(), torch.full((2,), 1 - 0.1 * (2 + 3.8)))
