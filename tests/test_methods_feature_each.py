"""What is particular to one feature method: grids, margins, signs, paraphrasers, conversions between references."""

import pytest
import reference_feature as ref
import torch
from feature_cases import (
    AB,
    AT,
    CASES,
    CO,
    FSP,
    FT,
    LARGE,
    PLAIN,
    SP,
    VID,
    FitNet,
    assert_close,
    batch_of,
    flows,
    look,
    shapes,
)
from torch import nn

from kdcache.errors import UsageError
from kdcache.methods.boundary import margins
from kdcache.methods.bridges import EPS, ConvNorm, unit, widen
from kdcache.methods.factor import paraphraser

# --- attention -------------------------------------------------------------------------------------------------------


def test_at_grids_may_differ_by_stage_and_need_no_name_where_they_are_the_teachers_own():
    method = AT(grid=((6, 6), (4, 4), (4, 4)))
    assert list(method.project(look(LARGE, 2, 1))) == ["at.f1@6x6", "at.f2@4x4", "at.f3"]


def test_at_finds_a_plain_map_that_has_the_stated_grid():
    student, teacher = look(LARGE, 2, 1), look(PLAIN, 2, 2)
    stated, plain = AT(grid=((6, 6), (4, 4), (2, 2))), AT()
    knowledge = plain.project(teacher)
    assert stated.loss(student, knowledge, batch_of(2)) == plain.loss(student, knowledge, batch_of(2))
    with pytest.raises(UsageError, match="6x6"):
        AT(grid=(2, 2)).loss(student, knowledge, batch_of(2))


def test_at_refuses_to_enlarge_the_teacher():
    with pytest.raises(UsageError, match="a grid within 2x2, found 4x4"):
        AT(grid=(4, 4)).project(look(PLAIN, 2, 1))


def test_at_squares_in_single_precision():
    huge = {f"{stage}.raw": torch.full((1, 4, 8, 8), 6e4, dtype=torch.float16) for stage in ("f1", "f2", "f3")}
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in AT().project(huge).values())


# --- conversions -----------------------------------------------------------------------------------------------------


def term(method, stage="main", student=PLAIN):
    mine, theirs = look(student, 3, 1), look(PLAIN, 3, 2)
    terms = method.double().loss(mine, method.project(theirs), batch_of(3), stage)
    return next(value for name, value in terms.items() if name != "ce"), mine, theirs


def test_three_stages_added_are_three_times_their_average():
    for method in (AT, FSP):
        stage = "init" if method is FSP else "main"
        torch.testing.assert_close(term(method(), stage)[0], 3 * term(method(mean=True), stage)[0])
    twins = []
    for mean in (False, True):
        torch.manual_seed(0)
        twins.append(term(VID(shapes(PLAIN), shapes(PLAIN), mean=mean))[0])
    torch.testing.assert_close(twins[0], 3 * twins[1])


def test_ab_author_from_the_mean_form():
    loss, mine, theirs = term(AB(), "init")
    expected = 0.0
    for stage, tap in enumerate(("f1.pre", "f2.pre", "f3.pre")):
        mean = ref.ab_stage(mine[tap], theirs[tap], 1) / mine[tap].numel()
        expected += 3e-3 * 2.0 ** (stage + 1 - 3) * mine[tap][0].numel() * mean
    torch.testing.assert_close(loss, expected)


def test_fsp_tf1_from_the_mean_form():
    loss, mine, theirs = term(FSP(**FSP.variants["tf1"]), "init")
    pairs = zip(flows(mine, "post", 1, "max"), flows(theirs, "post", 1, "max"), strict=True)
    torch.testing.assert_close(loss, sum(5e-4 * a[0].numel() * (a - b).square().mean() for a, b in pairs))


# --- signs and margins -----------------------------------------------------------------------------------------------


def test_ab_reads_nothing_but_the_sign():
    method = AB(logits=False)
    student, teacher = look(PLAIN, 3, 1), look(PLAIN, 3, 2)
    bits = method.project(teacher)
    values = {f"ab.{f}": teacher[f"{f}.pre"] for f in ("f1", "f2", "f3")}
    booleans = {name: bit.bool() for name, bit in bits.items()}
    expected = method.loss(student, bits, batch_of(3), "init")
    assert expected == method.loss(student, values, batch_of(3), "init")
    assert expected == method.loss(student, booleans, batch_of(3), "init")
    assert set(bits) == set(AB.codecs)


def test_ab_takes_zero_for_off():
    zero = {f"{f}.pre": torch.tensor([0.0, -0.0, 1e-45, -1e-45]) for f in ("f1", "f2", "f3")}
    assert all(bits.tolist() == [0, 0, 1, 0] for bits in AB(logits=False).project(zero).values())


def test_ab_asks_nothing_beyond_the_margin():
    student, teacher = look(PLAIN, 3, 1), look(PLAIN, 3, 2)
    for f in ("f1", "f2", "f3"):
        student[f"{f}.pre"] = torch.where(teacher[f"{f}.pre"] > 0, 1.0, -1.0).double()
    method = AB()
    assert method.loss(student, method.project(teacher), batch_of(3), "init") == {"ab": 0.0}


def test_ab_rep_trains_with_cross_entropy_alone():
    for variant in ("rep", "zoo"):
        method = AB(**AB.variants[variant])
        assert method.taps == ("f1.pre", "f2.pre", "f3.pre")
        student, teacher = look(PLAIN, 3, 1), look(PLAIN, 3, 2)
        assert list(method.loss(student, method.project(teacher), batch_of(3))) == ["ce"]


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (-0.7, 0.4), (0.3, -1.2), (2.0, 3.0), (0.5, -6.0)])
def test_co_margin_is_the_mean_of_the_negative_values(gamma, beta):
    norm = nn.BatchNorm2d(1)
    nn.init.constant_(norm.weight, gamma)
    nn.init.constant_(norm.bias, beta)
    assert margins(norm).item() == pytest.approx(ref.margin(gamma, beta), rel=1e-5)


def test_co_margins_at_the_edges():
    norm = nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0, 1e-20]))
        norm.bias.copy_(torch.tensor([10.0, 2.0, -2.0, 0.0, -1e20]))
    assert margins(norm).tolist() == [-1.5, 0.0, -2.0, 0.0, pytest.approx(-1e20)]
    assert margins(nn.BatchNorm2d(2, affine=False)).tolist() == pytest.approx([-((2 / torch.pi) ** 0.5)] * 2)


def test_co_clipping_is_idempotent():
    method, teacher = CASES["co"].build(), look(PLAIN, 3, 2)
    once = method.project(teacher)
    again = method.project({f"{f}.pre": once[f"co.{f}"] for f in ("f1", "f2", "f3")})
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_co_asks_nothing_of_a_student_below_a_silent_teacher():
    method = CASES["co"].build()
    method.connectors = nn.ModuleList([nn.Identity()] * 3)
    student, teacher = look(PLAIN, 3, 1), {tap: -values.abs() for tap, values in look(PLAIN, 3, 2).items()}
    knowledge = method.project(teacher)
    for f in ("f1", "f2", "f3"):
        student[f"{f}.pre"] = knowledge[f"co.{f}"] - 1
    assert method.loss(student, knowledge, batch_of(3))["co"] == 0


def test_constants_come_before_projecting():
    for method in (CO(shapes(PLAIN), shapes(PLAIN)), FT(shapes(PLAIN), shapes(PLAIN))):
        with pytest.raises(UsageError, match="call use"):
            method.project(look(PLAIN, 2, 1))
        with pytest.raises(UsageError, match="found nothing"):
            method.use({})


# --- factors ---------------------------------------------------------------------------------------------------------


def smooth(n=16, batches=4):
    """Maps that an autoencoder can learn: two patterns, mixed."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(2, 6, 4, 4, generator=generator)
    mixes = torch.rand(batches, n, 2, generator=generator)
    return lambda: ({"f3.post": torch.einsum("nk,kchw->nchw", mix, patterns)} for mix in mixes)


def test_ft_paraphraser_is_reproducible_and_touches_no_global_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    made = [FT(shapes(PLAIN), shapes(PLAIN), seed=seed) for seed in (0, 0, 1)]
    torch.set_rng_state(state)
    with torch.no_grad():
        first, second, other = (method.prepare(None, smooth()) for method in made)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first) == [f"ft.factor.{i}" for i in range(6)]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["ft.factor.0"], other["ft.factor@seed1.0"])


def test_ft_paraphraser_learns_from_every_pass():
    calls = []

    def looks():
        calls.append(1)
        return smooth()()

    FT(shapes(PLAIN), shapes(PLAIN)).prepare(None, looks)
    assert len(calls) == 6


def test_ft_paraphraser_is_that_of_the_formula():
    """Two steps of the author's recipe, L1 and SGD at 0.1 with momentum 0.9 and decay 5e-4, for 130 rows."""
    weights = [w.detach().double().requires_grad_() for w in paraphraser(6, 3, 0, "cpu")]
    look, speeds = next(iter(smooth(130)())), [0.0] * 12
    for x in (look["f3.post"][:128].double(), look["f3.post"][128:].double()):
        y = ref.encoder(x, weights[:6])
        for w, b in zip(weights[6::2], weights[7::2], strict=True):
            y = ref.leaky(ref.deconv(y, w, b, 1, 1))
        grads = torch.autograd.grad((y - x).abs().sum() / x.numel(), weights)
        speeds = [0.9 * v + g + 5e-4 * w for v, g, w in zip(speeds, grads, weights, strict=True)]
        weights = [(w - 0.1 * v).detach().requires_grad_() for w, v in zip(weights, speeds, strict=True)]
    made = FT(shapes(PLAIN), shapes(PLAIN), passes=1).prepare(None, lambda: [look])
    assert_close(list(made.values()), [w.detach() for w in weights[:6]], 1e-5)


def test_weights_are_drawn_as_the_references_draw_them():
    torch.manual_seed(0)
    assert widen(100, 400).conv.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    twins = [nn.Conv2d(a, b, 3) for a, b in ((64, 64), (64, 16), (16, 16))]
    twins += [nn.ConvTranspose2d(a, b, 3) for a, b in ((16, 16), (16, 64), (64, 64))]
    theirs = [p for twin in twins for p in twin.parameters()]
    for mine, other in zip(paraphraser(64, 16, 0, "cpu"), theirs, strict=True):
        assert mine.shape == other.shape
        assert mine.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.2)


def test_ft_paraphraser_survives_inference_mode():
    method = FT(shapes(PLAIN), shapes(PLAIN), passes=1)
    with torch.inference_mode():
        made = method.prepare(None, smooth())
    assert all(weight.isfinite().all() for weight in made.values())


def test_ft_without_images_or_with_broken_ones_is_refused():
    method = FT(shapes(PLAIN), shapes(PLAIN))
    with pytest.raises(UsageError, match="no images"):
        method.prepare(None, lambda: [])
    with pytest.raises(UsageError, match="NaN"):
        method.prepare(None, lambda: [{"f3.post": torch.full((2, 6, 2, 2), torch.nan)}])


def test_ft_paraphraser_is_not_trained_with_the_student():
    method = CASES["ft"].build()
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"translator"}
    assert {name.split(".")[0] for name in method.state_dict()} == {"translator"}
    assert method.paraphraser0.dtype == torch.float64  # it follows the method


# --- hints and helpers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "weight"), [(1, 4.0), (6, 2.5), (11, 1.0), (99, 1.0), (None, 1.0)])
def test_fitnet_paper_trusts_the_teacher_less_and_less(epoch, weight):
    method = FitNet(shapes(PLAIN), shapes(PLAIN), anneal=11, **FitNet.variants["paper"])
    student, teacher = look(PLAIN, 3, 1), look(PLAIN, 3, 2)
    loss = method.loss(student, teacher, batch_of(3, epoch))
    expected = weight * ref.soft_targets(student["logits"], teacher["logits"], 3)
    torch.testing.assert_close(loss["fitnet.kd"], expected)


def test_vid_stands_a_large_scale():
    method = VID(shapes(PLAIN), shapes(PLAIN)).double()
    with torch.no_grad():
        method.gaussians[0].rho.fill_(1e4)
    student, teacher = look(PLAIN, 2, 1, grad=True), look(PLAIN, 2, 2)
    assert method.loss(student, teacher, batch_of(2))["vid"].isfinite()


def test_vid_starts_at_the_stated_variance():
    gaussian = VID(shapes(PLAIN), shapes(PLAIN), eps=0.1).gaussians[0]
    torch.testing.assert_close(nn.functional.softplus(gaussian.rho) + 0.1, torch.full((3,), 5.0))


def test_a_connector_with_one_value_per_channel_says_so():
    connector = ConvNorm(nn.Conv2d(3, 3, 1))
    with pytest.raises(UsageError, match="batch size above 1"):
        connector(torch.ones(1, 3, 1, 1))
    assert connector.eval()(torch.ones(1, 3, 1, 1)).isfinite().all()


def test_what_has_no_direction_gets_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [EPS / 4, 0.0]], requires_grad=True)
    unit(x).sum().backward()
    torch.testing.assert_close(unit(x), torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, 0.0]]))
    assert x.grad[0].tolist() == x.grad[2].tolist() == [0, 0]


def test_sp_of_one_row_has_nothing_to_compare():
    student = look(PLAIN, 1, 1, grad=True)
    loss = SP().loss(student, look(PLAIN, 1, 2), batch_of(1))["sp"]
    loss.backward()
    assert loss < 1e-20
    assert student["f3.raw"].grad.abs().max() < 1e-10
