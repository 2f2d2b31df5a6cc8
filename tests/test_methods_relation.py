"""The methods that read logits, embeddings and singular vectors, against slow references and at their edges."""

import pytest
import reference_relation as ref
import torch
import torch.nn.functional as F
from relation_cases import ALL, EXPECTED, ROWS, SHAPES, STAGES, TAPS, batch_of, draw, known, made, relations_of

from kdcache.errors import UsageError
from kdcache.methods import METHODS, build, clipped_gradients
from kdcache.methods.mhgd import train
from kdcache.methods.svd import CANDIDATES, aligned, decompose, matrix


def gradients(look, terms):
    """One gradient for each term, over all tensors of the look that it reads."""
    inputs = list(look.values())
    found = {}
    for name, term in terms.items():
        parts = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        zeros = [torch.zeros_like(x) if part is None else part for x, part in zip(inputs, parts, strict=True)]
        found[name] = torch.cat([part.double().flatten() for part in zeros])
    return found


def differing(look):
    return {name: value.clone().requires_grad_() for name, value in look.items()}


def test_expected_names_every_method_and_variant():
    assert sorted(EXPECTED) == sorted(ALL)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("text", ALL)
def test_terms_and_gradients_are_those_of_the_reference(text, dtype, close):
    method, (ce, expected) = made(text, dtype=dtype), EXPECTED[text]
    student, teacher, batch = differing(draw(1)), draw(2), batch_of()
    want = expected(student, teacher, batch.targets)
    if ce:
        want = {"ce": ce * ref.cross_entropy(student["logits"], batch.targets), **want}
    slow = gradients(student, want)
    mine = differing(draw(1, dtype=dtype))
    got = method.loss(mine, known(method, draw(2, dtype=dtype)), batch)
    fast = gradients(mine, got)
    assert list(got) == list(want)
    for name in want:
        assert got[name].item() == pytest.approx(want[name].item(), rel=close)
        assert (fast[name] - slow[name]).norm() <= close * slow[name].norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_the_cached_vector_is_the_svds_with_a_sum_that_is_not_negative(dtype):
    look = draw(5, 6)
    look["f2.post"][:, 1] *= -3  # signed maps, too
    got = METHODS["kdsvd"]().project({k: v.to(dtype) for k, v in look.items()})
    assert list(got) == ["svd.f1", "svd.f2", "svd.f3"]
    for name, tap in zip(got, TAPS, strict=True):
        want = torch.stack([ref.canonical(features) for features in look[tap]])
        torch.testing.assert_close(got[name].double(), want, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)
        assert (got[name].sum(1) >= 0).all()


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 2, 2), (9, 2, 2), (5, 7, 1)])
def test_a_vector_has_its_true_gradient_at_any_shape(shape):
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(3, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = F.normalize(torch.randn(3, shape[0], generator=generator, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: aligned(x, teacher), features)
    want = torch.stack([ref.aligned(f, v) for f, v in zip(features, teacher, strict=True)])
    torch.testing.assert_close(aligned(features, teacher), want, rtol=0, atol=1e-11)


def test_the_student_follows_the_teachers_choice_and_sign():
    features = draw(8)["f1.post"]
    values, vectors = decompose(matrix(features))
    assert vectors.shape[2] < CANDIDATES  # narrow maps have fewer
    assert (values[:, :-1] >= values[:, 1:]).all()
    for k in range(vectors.shape[2]):
        torch.testing.assert_close(aligned(features, -vectors[..., k]), -vectors[..., k])


def test_kd_eid_learns_where_the_authors_code_stops():
    look = differing({"logits": torch.randn(2, 3), **{t: torch.rand(2, 9, 3, 3).double() for t in TAPS}})
    method = build("kdeid")
    knowledge = method.project({t: torch.rand(2, 9, 3, 3).double() for t in TAPS})
    gradient = torch.autograd.grad(method.terms(look, knowledge, batch_of(2))["kdeid"], look["f3.post"])[0]
    assert gradient.norm() > 0


@pytest.mark.parametrize("text", ["rkd", "rkd/tf1"])
def test_equal_embeddings_get_no_exploding_gradient(text):
    student, teacher = draw(1), draw(2)
    student["emb"][1] = student["emb"][0]
    student["emb"][2] = student["emb"][1] + 1e-9
    student = differing(student)
    method = METHODS["rkd"](**METHODS["rkd"].variants.get(text.partition("/")[2], {}))
    loss = sum(method.terms(student, {"emb": teacher["emb"]}, batch_of()).values())
    assert torch.autograd.grad(loss, student["emb"])[0].norm() < 1e3


def test_a_diverged_student_shows_as_nan_not_as_a_crash():
    look = draw(1)
    look["f3.post"][2, 0, 0, 0] = torch.nan
    method = METHODS["kdsvd"]()
    assert method.terms(look, method.project(draw(2)), batch_of())["kdsvd"].isnan()
    assert method.project(look)["svd.f3"].isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("text", ["dkd", "ls", "ls/tfkd", "tfkd"])
def test_rows_without_a_label_are_left_out(text):
    method, student, teacher = made(text), draw(1), draw(2)
    part = method.loss(student, known(method, teacher), batch_of(targets=[3, -1, 0, -1]))
    few = [{k: v[[0, 2]] for k, v in look.items()} for look in (student, teacher)]
    whole = method.loss(few[0], known(method, few[1]), batch_of(2, targets=[3, 0]))
    torch.testing.assert_close(part, whole)
    none = method.loss(student, known(method, teacher), batch_of(targets=[-1] * ROWS))
    assert all(value == 0 for value in none.values())


@pytest.mark.parametrize(("epoch", "ramp"), [(1, 0.05), (10, 0.5), (20, 1.0), (50, 1.0), (None, 1.0)])
def test_dkd_warms_up_from_epoch_1(epoch, ramp):
    method, student, teacher = made("dkd"), draw(1), draw(2)
    full = method.terms(student, teacher, batch_of())
    got = method.terms(student, teacher, batch_of(epoch=epoch))
    assert {k: v.item() for k, v in got.items()} == pytest.approx({k: ramp * v.item() for k, v in full.items()})


@pytest.mark.parametrize("text", ["kdsvd:weight=1", "kdeid", "mhgd"])
def test_networks_of_other_widths_are_refused(text):
    wide = {**SHAPES, "f2.post": (7, 2, 2)}
    with pytest.raises(UsageError, match=r"7x2x2 and teacher 4x2x2"):
        build(text, wide, SHAPES)


def test_gradcheck_of_rkd():
    emb, other, method = draw(1)["emb"][:, :3].requires_grad_(), {"emb": draw(2)["emb"][:, :3]}, METHODS["rkd"]()
    assert torch.autograd.gradcheck(lambda x: tuple(method.terms({"emb": x}, other, None).values()), emb)


@pytest.mark.parametrize("text", ["kdsvd", "mhgd"])
def test_gradcheck_of_singular_vectors(text):
    method, look = made(text), draw(1)
    vectors = method.project(draw(2))

    def loss(*maps):
        return method.terms(dict(zip(TAPS, maps, strict=True)), vectors, None)[text]

    assert torch.autograd.gradcheck(loss, [look[tap].requires_grad_() for tap in TAPS])


def test_clipping_bounds_each_variable_by_the_cross_entropys_gradient():
    main = [torch.tensor([3.0, 4.0]), torch.tensor([1.0]), torch.tensor([2.0]), None, None, torch.tensor([1.0, 0.0])]
    term = [
        torch.tensor([0.0, 10.0]),
        torch.tensor([0.1]),
        None,
        torch.tensor([5.0]),
        None,
        torch.tensor([torch.nan, 0.5]),
    ]
    got = clipped_gradients(main, term, epoch=None)
    torch.testing.assert_close(got[:3], [torch.tensor([3.0, 9.0]), torch.tensor([1.1]), torch.tensor([2.0])])
    assert got[3:5] == [torch.tensor([0.0]), None]  # without a cross-entropy there is nothing to measure by
    torch.testing.assert_close(got[5], torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize(("epoch", "ramp"), [(1, 0.5), (2, 0.7310586), (20, 1.0), (2000, 1.0)])
def test_clipping_ramps_up_with_the_epoch(epoch, ramp):
    got = clipped_gradients([torch.tensor([2.0])], [torch.tensor([-100.0])], epoch)
    torch.testing.assert_close(got[0], torch.tensor([2 - 2 * ramp]))


def test_dml_wants_as_many_peers_as_students():
    method = build("dml:students=3")
    assert method.students == 3
    peers_of = torch.stack([draw(2)["logits"], draw(3)["logits"]], 1)
    both = method.terms(draw(1), {"peers": peers_of}, batch_of())["dml"]
    single_method = build("dml")
    each = [single_method.terms(draw(1), {"peers": p[:, None]}, batch_of())["dml"] for p in peers_of.unbind(1)]
    torch.testing.assert_close(both, sum(each))
    with pytest.raises(UsageError, match="2 peers"):
        method.terms(draw(1), {"peers": peers_of[:, :1]}, batch_of())


def looks_of(n=96):
    """One pass of three batches, whose stages depend on each other as a network's do."""
    generator = torch.Generator().manual_seed(11)
    mixed = {tap: torch.rand(2, shape[0], generator=generator) for tap, shape in STAGES.items()}
    for _ in range(3):
        hidden = torch.rand(n // 3, 2, generator=generator)
        yield {tap: (hidden @ m)[..., None, None].expand(-1, -1, *STAGES[tap][1:]).half() for tap, m in mixed.items()}


def test_mhgd_prepares_without_touching_the_global_generator_and_always_alike():
    before = torch.get_rng_state()
    made_in_inference = METHODS["mhgd"](passes=3)
    with torch.inference_mode():
        first = made_in_inference.prepare(None, looks_of)
    second = METHODS["mhgd"](passes=3).prepare(None, looks_of)
    other = METHODS["mhgd"](passes=3, seed=1).prepare(None, looks_of)
    assert torch.equal(torch.get_rng_state(), before)
    names = [
        f"mhgd@passes3.{f}.{s}.{p}" for f in ("f2", "f3") for s in ("senders", "receivers") for p in ("weight", "bias")
    ]
    assert list(first) == names
    assert all(torch.equal(first[name], second[name]) and not first[name].requires_grad for name in names)
    elsewhere = other[names[0].replace("@passes3", "@passes3-seed1")]
    assert not torch.equal(first[names[0]], elsewhere)
    with pytest.raises(UsageError, match=r"mhgd\.f2"):  # other passes are another attention
        METHODS["mhgd"]().use(first)
    made_in_inference.use(first)
    assert not list(made_in_inference.parameters())
    assert not made_in_inference.state_dict()


def test_mhgd_estimates_the_next_stage_as_in_the_reference_and_learns_to():
    method = METHODS["mhgd"]()
    rows = [method.project(look) for look in looks_of()]
    vectors = {name: torch.cat([row[name] for row in rows]).float() for name in rows[0]}
    noise = torch.randn(8, ROWS, 1, generator=torch.Generator().manual_seed(1)).double()
    earlier, later = (vectors[name][:ROWS].double() for name in ("svd.f1", "svd.f2"))
    relation = relations_of()["f2"]
    torch.testing.assert_close(
        relation(earlier, later, noise), ref.estimate(relation, earlier, later, noise), rtol=1e-9, atol=1e-9
    )

    def error(passes):
        relation = train(vectors, passes, 0)["f3"]
        noise = torch.randn(8, 96, 1, generator=torch.Generator().manual_seed(2))
        return 1 - (relation(vectors["svd.f2"], vectors["svd.f3"], noise) * vectors["svd.f3"]).sum(1).mean()

    assert error(40) < 0.1 * error(0)


def test_mhgd_has_the_published_number_of_attention_weights():
    vectors = {f"svd.f{i}": torch.ones(2, c) for i, c in ((1, 16), (2, 32), (3, 64))}
    relations = train(vectors, 0, 0)
    attention = [relation.get_submodule(side) for relation in relations.values() for side in ("senders", "receivers")]
    count = sum(p.numel() for module in attention for p in module.parameters())
    assert (count, sum(p.numel() for p in relations.parameters()) - count) == (48384, 32880)


@pytest.mark.parametrize("looks", [lambda: [], lambda: [draw(1, 1)]])
def test_mhgd_refuses_too_little_to_learn_from(looks):
    with pytest.raises(UsageError, match="at least 2 images"):
        METHODS["mhgd"]().prepare(None, looks)


def test_mhgd_needs_its_attention():
    method = METHODS["mhgd"]()
    with pytest.raises(UsageError, match="trained attention"):
        method.terms(draw(1), method.project(draw(2)), batch_of())
    with pytest.raises(UsageError, match=r"mhgd\.f2\.senders\.weight"):
        method.use({})
