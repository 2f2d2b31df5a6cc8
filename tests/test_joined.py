"""Several caches at once: more views of one teacher, the average of several."""

import copy

import numpy as np
import pytest
import torch
from conftest import VIEWS, fresh_teacher

from kdcache.cache import moments, open_cache
from kdcache.cache.joined import Average, MoreViews, join
from kdcache.cache.parts import prune
from kdcache.errors import CacheError, UsageError
from kdcache.jobs import Data, Student, dump_pseudo, import_logits, open_data, taught_by
from kdcache.jobs.student import folder_of
from kdcache.models import build
from kdcache.train import Settings

ROWS = np.array([5, 3, 3, 1299])


@pytest.fixture(scope="session")
def later_file(dump, tmp_path_factory):
    return dump(tmp_path_factory.mktemp("later") / "later.h5", views=2, first_view=VIEWS)


@pytest.fixture(scope="session")
def other_file(dump, data, tmp_path_factory):
    return dump(tmp_path_factory.mktemp("other") / "other.h5", network=fresh_teacher(data, seed=2))


def test_one_cache_stays_as_it_is(cache):
    assert join([cache]) is cache


def test_views_of_one_teacher_follow_each_other(cache, later_file):
    joined, later = join([cache, open_cache(later_file)]), open_cache(later_file)
    assert isinstance(joined, MoreViews)
    assert joined.views == joined.meta["views"] == VIEWS + 2
    views = np.array([0, VIEWS, VIEWS + 1, 2])
    expected = [(cache, 0), (later, 0), (later, 1), (cache, 2)]
    found = joined.read(views, ROWS)["logits"]
    for place, (file, view) in enumerate(expected):
        assert torch.equal(found[place], file.read(view, ROWS[place : place + 1])["logits"][0])
        assert joined.seeds(views, ROWS)[place] == file.seeds(view, ROWS[place : place + 1])[0]


def test_later_views_are_those_of_a_longer_dump(dump, later_file, tmp_path):
    whole, later = open_cache(dump(tmp_path / "whole.h5", views=VIEWS + 2)), open_cache(later_file)
    assert np.array_equal(whole.seeds(VIEWS + 1, ROWS), later.seeds(1, ROWS))
    assert torch.equal(whole.read(VIEWS + 1, ROWS)["logits"], later.read(1, ROWS)["logits"])


def test_the_same_views_twice_are_refused(cache):
    with pytest.raises(CacheError, match="--first-view"):
        join([cache, cache])


def test_views_beyond_the_last_are_refused(cache, later_file):
    with pytest.raises(UsageError, match=f"0 to {VIEWS + 1}"):
        join([cache, open_cache(later_file)]).read(VIEWS + 2, ROWS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_several_teachers_are_averaged_in_probability(cache, other_file, temperature):
    other = open_cache(other_file)
    joined = join([cache, other], [3, 1], "probability", temperature)
    assert isinstance(joined, Average)
    parts = [c.read(1, ROWS)["logits"].double().div(temperature).softmax(1) for c in (cache, other)]
    found = joined.read(1, ROWS)["logits"].double().div(temperature).softmax(1)
    torch.testing.assert_close(found, 0.75 * parts[0] + 0.25 * parts[1], rtol=0, atol=1e-6)


def test_several_teachers_are_averaged_in_logits(cache, other_file):
    other = open_cache(other_file)
    found = join([cache, other], None, "logits").read(1, ROWS)["logits"]
    torch.testing.assert_close(found, (cache.read(1, ROWS)["logits"] + other.read(1, ROWS)["logits"]) / 2)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, 1, 1]])
def test_weights_that_make_no_average_are_refused(cache, other_file, weights):
    with pytest.raises(UsageError, match="2 weights"):
        join([cache, open_cache(other_file)], weights)


def test_teachers_of_other_views_are_refused(cache, dump, data, tmp_path):
    other = dump(tmp_path / "other.h5", network=fresh_teacher(data, seed=2), seed=9)
    with pytest.raises(CacheError, match="--seed"):
        join([cache, open_cache(other)])


@pytest.mark.parametrize("average", ["median", "logits:4", "probability:0", "probability:x"])
def test_an_average_that_is_none_is_refused(cache_file, average):
    with pytest.raises(UsageError, match="`average`"):
        open_data([str(cache_file)], None, None, 1.0, average)


def test_students_train_from_both_kinds(cache_file, later_file, other_file):
    for files in ((cache_file, later_file), (cache_file, other_file)):
        data, cache = open_data([str(file) for file in files], None, None, 1.0)
        _, records = Student(data, "tiny-3", "st", Settings(epochs=1), taught_by(cache)).train()
        assert {"ce", "st"} == records[0]["loss"].keys()
        assert "agreement" in records[0]


@pytest.fixture(scope="session")
def embedded(dump, data, tmp_path_factory):
    """Caches of embeddings of three teachers, the second of another width; the last one has no logits."""
    folder = tmp_path_factory.mktemp("embedded")
    wide = build("tiny-5", len(data.train.classes), data.train.mean, data.train.std, seed=4)
    with torch.no_grad():
        wide.train()(data.train.read(range(128)))
    given = [(fresh_teacher(data, 2), "st+feat"), (wide.eval(), "st+feat"), (fresh_teacher(data, 3), "feat")]
    found = (dump(folder / f"{n}.h5", views=2, network=one, method=text) for n, (one, text) in enumerate(given))
    return [open_cache(path) for path in found]


def test_embeddings_of_several_teachers_stand_side_by_side(embedded):
    joined = join(embedded[:2])
    widths = [file.shapes["emb"][0] for file in embedded[:2]]
    assert joined.names == ["logits", "emb"]
    assert joined.shapes["emb"] == (sum(widths),)
    found, start = joined.read(1, ROWS, ["emb"])["emb"], 0
    for file, width in zip(embedded, widths, strict=False):
        first = file.read(0, range(len(file)), ["emb"])["emb"].double()
        mean, std = first.mean(0), first.std(0, correction=0)
        expected = (file.read(1, ROWS, ["emb"])["emb"] - mean) / std.where(std > 0, 1)
        torch.testing.assert_close(found[:, start : start + width].double(), expected, rtol=1e-4, atol=1e-5)
        start += width
    turned = join(embedded[1::-1]).read(1, ROWS)
    assert torch.equal(turned["emb"], found.roll(widths[1], 1))
    assert torch.equal(turned["logits"], joined.read(1, ROWS)["logits"])
    held = joined.hold(1, ["emb"], "cpu")(torch.from_numpy(ROWS))["emb"]
    assert torch.equal(held, found)


def test_every_row_counts_once_and_what_never_changes_is_left(embedded, monkeypatch):
    whole = moments.moments(embedded[0], "emb")
    monkeypatch.setattr(moments, "CHUNK", 100)
    torch.testing.assert_close(moments.moments(embedded[0], "emb"), whole)
    monkeypatch.setattr(moments, "MOST", 10)
    few = moments.moments(embedded[0], "emb").mean
    every = embedded[0].read(0, range(0, 1300, 130), ["emb"])["emb"].double().mean(0)
    torch.testing.assert_close(few.double(), every, rtol=1e-5, atol=1e-6)
    still = type("Still", (list,), {"read": lambda *_: {"emb": torch.full((10, 2), 3.1)}})(range(10))
    assert moments.moments(still, "emb").std.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("text", ["feat", "queue", "srd"])
def test_methods_of_embeddings_train_from_several_teachers(embedded, text):
    joined = join(embedded[:2])
    student = Student(Data.of_cache(joined), "tiny-3", text, Settings(epochs=1, batch=650), taught_by(joined))
    _, [record] = student.train()
    assert np.isfinite(record["total"])


def test_without_logits_only_embeddings_are_joined(embedded):
    joined = join([embedded[2], embedded[0]])
    assert joined.names == ["emb"]
    with pytest.raises(CacheError, match="knowledge 'logits', which st needs"):
        Student(Data.of_cache(joined), "tiny-3", "st", Settings(epochs=1), taught_by(joined)).train()
    Student(Data.of_cache(joined), "tiny-3", "feat", Settings(epochs=1, batch=650), taught_by(joined)).train()


def test_files_of_which_one_has_logits_alone_and_one_embeddings_alone_are_refused(embedded, dump, data, tmp_path):
    other = open_cache(dump(tmp_path / "logits.h5", views=2, network=fresh_teacher(data, 7)))
    with pytest.raises(CacheError, match="logits to average, found only emb; dump them with st, or all of them"):
        join([other, embedded[2]])


def test_a_teacher_with_other_taps_is_the_same_teacher(cache, dump, teacher, tmp_path):
    """Its logits are more views; what lies at a tap of that name may be something else."""
    named = copy.deepcopy(teacher)
    named.arch = named.arch | {"taps": "emb=whatever"}
    later = open_cache(dump(tmp_path / "x.h5", network=named, views=1, first_view=VIEWS))
    assert later.meta["teacher"]["taps"]
    for files in ([cache, later], [later, cache]):
        joined = join(files)
        assert isinstance(joined, MoreViews)
        assert list(joined.names) == ["logits"]
        taught_by(joined, copy.deepcopy(teacher))


def test_a_teacher_whose_classes_were_mapped_is_the_same_teacher(cache, dump, tmp_path):
    """Files that no method of these maps was dumped into do not list them, and are those of older versions."""
    later = open_cache(dump(tmp_path / "x.h5", method="st+cat", views=1, first_view=VIEWS))
    assert "cam" in later.meta["teacher"]["shapes"]
    assert "cam" not in cache.meta["teacher"]["shapes"]
    assert isinstance(join([cache, later]), MoreViews)


@pytest.fixture(scope="session")
def kinds(dump, data, tmp_path_factory):
    """A cache of every kind, all of the same images, view and seeds."""
    folder = tmp_path_factory.mktemp("kinds")
    plain = Data.open(data.train.spec, "none")
    files = {name: folder / f"{name}.h5" for name in ("live", "other", "pseudo", "imported", "rich", "pruned")}
    dump(files["live"], data=plain, views=1)
    dump(files["other"], data=plain, views=1, network=fresh_teacher(data, seed=2))
    dump(files["rich"], data=plain, views=1, method="st+rkd", network=fresh_teacher(data, seed=3))
    dump_pseudo(files["pseudo"], plain, 1, "f32", 0, {"accuracy": "0.9"})
    np.save(folder / "logits.npy", np.eye(10, dtype=np.float32)[data.train.labels] * 9)
    import_logits(str(folder / "logits.npy"), plain, None, files["imported"], "f32")
    prune(files["rich"], files["pruned"], None, ["logits"])
    return {name: open_cache(path) for name, path in files.items()}


PAIRS = [  # and whether there are answers to the evaluation images
    ("live", "other", True), ("live", "rich", True), ("live", "pruned", True),
    ("live", "pseudo", False), ("live", "imported", False), ("pruned", "pseudo", False),
    ("pseudo", "imported", None), ("rich", "pruned", "the same views"), ("live", "live", "the same views"),
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize(("one", "two", "judged"), PAIRS)
def test_every_pair_of_caches_has_a_rule_whatever_their_order(kinds, one, two, judged, turned):
    files = [kinds[name] for name in ((two, one) if turned else (one, two))]
    if isinstance(judged, str):
        with pytest.raises(CacheError, match="view 0 of it again"):
            join(files)
        return
    joined = join(files)
    assert isinstance(joined, Average)
    assert (joined.names, dict(joined.constants)) == (["logits"], {})
    assert joined.has_eval("logits") is bool(judged)
    assert len(joined.notes) == (judged is False)  # where neither has any, nothing is missed
    said = []
    student = Student(Data.of_cache(joined), "tiny-3", "st", Settings(epochs=1, batch=256), taught_by(joined))
    _, [record] = student.train(remark=said.append)
    assert ("agreement" in record) is bool(judged)
    assert [text for text in said if "not measured" in text] == list(joined.notes)


def test_factors_of_two_paraphrasers_are_not_mixed(dump, kinds, tmp_path):
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for first, file in zip((0, 1), files, strict=True):
        dump(file, views=1, first_view=first, method="st+ft:passes=1")
    with pytest.raises(CacheError, match="constants") as refused:
        join([open_cache(file) for file in files])
    assert "prune --knowledge logits" in refused.value.remedy
    small = [open_cache(prune(file, file.with_suffix(".small.h5"), None, ["logits"])) for file in files]
    joined = join(small)  # as the error advises
    assert (joined.views, joined.names, dict(joined.constants)) == (2, ["logits"], {})
    with pytest.raises(CacheError, match="which ft needs"):
        Student(Data.of_cache(joined), "tiny-3", "ft", Settings(epochs=1), taught_by(joined)).train()


@pytest.mark.parametrize("given", [{"average": "logits"}, {"average_weights": [5, 5, 5]}])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_average_of_nothing_is_refused(cache_file, later_file, which, given):
    files = [str(cache_file), str(later_file)][:which]
    with pytest.raises(UsageError, match=f"{next(iter(given))}.*caches of several teachers"):
        open_data(files, **given)


def test_no_single_network_stands_in_for_an_average(kinds, data):
    with pytest.raises(UsageError, match="answers of one teacher"):
        taught_by(join([kinds["live"], kinds["other"]]), fresh_teacher(data, 1))


def test_several_caches_are_asked_like_one(kinds, cache, later_file, other_file):
    items = np.array([1300, 5, 5, 2 * 1300 + 1299])
    for files in ([cache], [cache, open_cache(later_file)], [cache, open_cache(other_file)]):
        joined = join(files)
        told, rows = joined.gather(items), torch.tensor([5, 3, 3])
        assert torch.equal(joined.hold(1, joined.names, "cpu")(rows)["logits"], joined.read(1, rows)["logits"])
        assert torch.equal(joined.read(items // 1300, items % 1300)["logits"], told["logits"])
        assert joined.shapes == {"logits": (10,)}
        assert joined.bytes_of_view(["logits"]) >= 1300 * 20
        assert np.array_equal(joined.seeds_of(items), cache.seeds_of(items))


def test_trainings_that_differ_have_folders_of_their_own(cache, later_file, other_file):
    """In a setting, in the mixing, in the caches, in how they are averaged; the same training has the same."""

    def folder(*files, average=None, weights=None, mix=None, **settings):
        opened, store = open_data([cache.path, *files], None, None, 1.0, average, weights)
        student = Student(opened, "tiny-2", "st", Settings(**settings), taught_by(store), mix=mix, device="cpu")
        return folder_of(student, "runs").name

    other = [folder(other_file, **how) for how in AVERAGES]
    alone = [folder(**how) for how in ({}, {"lr": 0.05}, {"epochs": 60}, {"seed": 1}, {"mix": "labels"})]
    names = [*other, *alone, folder(later_file)]
    assert len(set(names)) == len(names)
    assert [folder(), folder(lr=0.05), folder(other_file)] == [alone[0], alone[1], other[0]]
    assert folder(eval_every=5) == folder()
    assert alone[1].startswith("student-synthetic-1300-10-8-tiny-2-st-logits-seed0-lr0.05-")


AVERAGES = [{}, {"average": "logits"}, {"average": "probability:4"}, {"weights": [1, 2]}]


def test_a_method_that_reads_the_level_of_logits_is_refused_where_it_is_lost(
    cache_file, other_file, dump, data, tmp_path
):
    dump(tmp_path / "p.h5", codec="logp8")
    for files, average, words in (
        ([tmp_path / "p.h5"], None, "codec logp8"),
        ([cache_file, other_file], None, "mean of probabilities"),
    ):
        opened, store = open_data([str(file) for file in files], average=average)
        student = Student(opened, "tiny-2", "logits", Settings(epochs=1), taught_by(store))
        with pytest.raises(CacheError, match=f"the level of logits, which logits needs, found .*{words}"):
            student.train()
    opened, store = open_data([str(cache_file), str(other_file)], average="logits")
    Student(opened, "tiny-2", "logits", Settings(epochs=1, batch=512), taught_by(store)).train()


def test_other_images_under_the_same_names_are_refused(cache, later_file, monkeypatch):
    later = open_cache(later_file)
    monkeypatch.setattr(type(later), "digests", property(lambda self: cache._table("digests").flat + (self is later)))
    with pytest.raises(CacheError, match="other images under the same names"):
        join([cache, later])


def test_canaries_of_all_files_are_rendered(cache, later_file, other_file):
    more, several = join([cache, open_cache(later_file)]), join([cache, open_cache(other_file)])
    count = len(cache.canaries["row"])
    assert more.canaries["view"].tolist() == [
        *cache.canaries["view"].tolist(),
        *(open_cache(later_file).canaries["view"] + VIEWS).tolist(),
    ]
    assert len(several.canaries["crc"]) == 2 * count
    assert "logits" in more.canaries
    assert "logits" not in several.canaries


def test_other_views_behind_the_first_file_are_another_training(cache, dump, later_file, tmp_path):
    other = dump(tmp_path / "other.h5", views=2, first_view=VIEWS + 2)
    metas = [join([cache, open_cache(file)]).meta["joined"] for file in (later_file, other)]
    assert metas[0] != metas[1]
