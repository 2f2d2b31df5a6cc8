"""The teacher runs once: the same bytes however the dump was run, and nothing half-made under the final name."""

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import fresh_teacher, killing

from kdcache import dump as dumping
from kdcache.batches import Seeded
from kdcache.cache import open_cache, writer
from kdcache.cache.layout import read_layout
from kdcache.dump import filling
from kdcache.durable import part_of
from kdcache.errors import CacheError, DataChanged, KdcacheError, KdcacheWarning, LibraryChanged, PipelineChanged
from kdcache.jobs import Data
from kdcache.proof import canaries
from kdcache.sources import encoded
from kdcache.teachers import Forward, LiveTeacher, describe


def test_the_number_of_workers_does_not_show(dump, pictures, tmp_path):
    data = Data.open(f"folder:{pictures}", "resized-crop:16")
    run = partial(dump, data=data, network=fresh_teacher(Data.open("synthetic:200,2,16", None), 1), forward=Forward(16))
    files = {run(tmp_path / f"{workers}.h5", workers=workers).read_bytes() for workers in (0, 1, 2)}
    assert len(files) == 1


@pytest.mark.parametrize("augment", ["crop-flip", "crop-flip+mixup"])
def test_the_seeds_of_a_batch_are_computed_once(dump, data, tmp_path, monkeypatch, augment):
    asked, seeds_of = [], Seeded.seeds_of
    monkeypatch.setattr(Seeded, "seeds_of", lambda self, items: asked.append(len(items)) or seeds_of(self, items))
    fill = filling.fill
    monkeypatch.setattr(dumping, "fill", lambda *given: asked.clear() or fill(*given))
    dump(tmp_path / "a.h5", data=Data.open(data.train.spec, augment), views=2)
    assert sum(asked) == 2 * len(data.train) + len(data.held_out)


@dataclass
class Killed:
    """Dumps of which some are killed: how often, and what came of them."""

    stride: int  # of the writes before which they are
    kills: int  # at random times
    world: int  # of ranks, of which none is
    dying: int  # the stride of the writes before which one of these is
    found: list[dict] = field(default_factory=list)


@pytest.fixture(
    scope="module", params=[Killed(20, 5, 2, 7), pytest.param(Killed(1, 80, 3, 1), marks=pytest.mark.slow)], ids=str
)
def killed(request, tmp_path_factory):
    """All in one process, which has torch already."""
    asked = request.param
    actions = [f"steps {asked.stride}", f"times {asked.kills} 1", f"at-once {asked.world}"]
    actions += [f"dying {asked.world} {asked.dying}", "at-once 0"]
    return replace(asked, found=killing(tmp_path_factory.mktemp("killed"), *actions))


def test_killed_before_any_write_it_ends_in_the_same_bytes(killed):
    found = killed.found[0]
    assert (found["files"], found["left"]) == (1, [])
    assert found["writes"] > 40


def test_killed_at_random_times_it_ends_in_the_same_bytes(killed):
    found = killed.found[1]
    assert (found["files"], found["left"]) == (1, [])
    assert found["kills"] >= killed.kills


@pytest.mark.slow
def test_killed_with_workers_it_ends_in_the_same_bytes(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "pictures")
    [found] = killing(tmp_path, "times 20 2")
    assert found["files"] == 1


def test_ranks_make_the_same_file_together(killed):
    assert killed.found[2] == {"codes": [0] * killed.world, "said": "", "same": True, "left": []}


def test_other_ranks_finish_what_a_dead_one_had_begun(killed):
    found = killed.found[3]
    assert found["killed"] > 0  # of the later ones, who had nothing left to write
    assert (found["codes"], found["files"], found["left"]) == ([0], 1, [])


def test_of_two_strangers_at_once_one_makes_the_file(killed):
    found = killed.found[4]
    refused = "expected no other dump at work on it, found one; wait for it" in found["said"]
    assert sorted(found["codes"]) == [0, int(refused)]  # on a slow machine the second may come when all is done
    assert (found["same"], found["left"]) == (True, [])


@pytest.mark.parametrize("ranks", [("1", "1"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_ranks_that_cannot_be(dump, tmp_path, monkeypatch, ranks):
    monkeypatch.setenv("RANK", ranks[0])
    monkeypatch.setenv("WORLD_SIZE", ranks[1])
    with pytest.raises(KdcacheError, match="RANK: expected a number from 0 to WORLD_SIZE-1"):
        dump(tmp_path / "x.h5")


def test_a_single_row_in_the_last_batch_is_answered_as_in_a_larger_one(dump, data, tmp_path):
    part = Data(data.train.take(np.arange(65)), data.held_out.take(np.arange(1)), data.view)
    run = partial(dump, codec="f32", data=part)
    alone = open_cache(run(tmp_path / "a.h5", forward=Forward(64)))
    among = open_cache(run(tmp_path / "b.h5", forward=Forward(65)))
    for view in range(3):
        assert torch.equal(alone.read(view, [64])["logits"], among.read(view, [64])["logits"])


def test_a_finished_dump_returns_at_once(dump, copied, monkeypatch):
    os.utime(copied, (time.time() + 60, time.time()))  # or the system may note that it was read
    before = copied.stat()
    monkeypatch.setattr(LiveTeacher, "seen", lambda *_, **__: pytest.fail("the teacher was asked again"))
    assert dump(copied) == copied
    assert copied.stat() == before


def changes(data):
    """Flags that change, and the name under which the difference is reported."""
    other, smaller = Data.open("synthetic:1300,10,8", "crop"), Data.open("synthetic:1200,10,8", None)
    changed = Data(data.train.take(np.arange(1300)[::-1].copy()), data.held_out, data.view)
    return {
        "views": {"views": 4},
        "seed": {"seed": 1},
        "forward.batch": {"forward": Forward(32)},
        "forward.dtype": {"forward": Forward(64, dtype="bf16")},
        "forward.channels_last": {"forward": Forward(64, channels_last=True)},
        "forward.tf32": {"forward": Forward(64, tf32=True)},
        "method": {"method": "logits"},
        "codec": {"codec": "f32"},
        "teacher.fingerprint": {"network": fresh_teacher(data, seed=2)},
        "view.flip": {"data": Data(data.train, data.held_out, other.view)},
        "data": {"data": changed},
        "data ": {"data": Data(smaller.train, data.held_out, data.view)},
        "evaluation data": {"data": Data(data.train, smaller.held_out, data.view)},
    }


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_other_flags_are_refused_by_name(dump, data, interrupted, copied, tmp_path, state):
    path = copied if state == "finished" else interrupted(tmp_path / "begun.h5")
    file = copied if state == "finished" else part_of(path)
    before = file.read_bytes()
    for name, options in changes(data).items():
        with pytest.raises(CacheError, match=f"expected {name}.*, as in the file, found ") as caught:
            dump(path, **options)
        assert str(caught.value).isprintable()
        assert caught.value.exit_code == (1 if "data" in name or "teacher" in name else 2)  # an option is wrong use
    assert file.read_bytes() == before
    assert dump(path).read_bytes() == before if state == "finished" else dump(path).exists()


@pytest.fixture
def begun(dump, tmp_path, monkeypatch):
    """An X.part into which nothing has been put."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dumping, "fill", stop)
        with pytest.raises(KeyboardInterrupt):
            dump(tmp_path / "x.h5")
    return part_of(tmp_path / "x.h5")


def test_a_file_that_holds_nothing_yet_gives_way_to_another_request(dump, begun, cache_file):
    path = begun.with_suffix("")
    with pytest.warns(KdcacheWarning, match="begun with codec f16 and holds nothing yet; begun again with f32"):
        assert open_cache(dump(path, codec="f32")).meta["codec"] == "f32"
    path.unlink()
    assert dump(path).read_bytes() == cache_file.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["x.h5"]


def test_it_does_not_give_way_while_somebody_is_at_work_on_it(dump, begun, cache_file):
    path, before = begun.with_suffix(""), begun.read_bytes()
    child = os.fork()
    if not child:
        with writer.Writer(path):
            begun.with_name("locked").touch()
            time.sleep(60)
    while not begun.with_name("locked").exists():
        time.sleep(0.01)
    with pytest.raises(CacheError, match="expected no other dump at work on it"):
        dump(path, codec="f32")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert begun.read_bytes() == before
    assert dump(path).read_bytes() == cache_file.read_bytes()


def test_other_ranks_wait_until_it_has_given_way(dump, begun, monkeypatch):
    waited = []

    def ready(ranks, condition, sign=None):
        waited.append(condition())
        raise KeyboardInterrupt

    monkeypatch.setattr("kdcache.dump.wait_for", ready)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for codec in ("f32", "f16"):
        with pytest.raises(KeyboardInterrupt):
            dump(begun.with_suffix(""), codec=codec)
    assert waited == [False, True]
    assert begun.exists()


def test_a_dump_that_was_interrupted_is_the_same_in_the_end(dump, interrupted, cache_file, tmp_path):
    assert dump(interrupted(tmp_path / "x.h5")).read_bytes() == cache_file.read_bytes()


def test_the_data_may_move(dump, interrupted, pictures, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(pictures, old)
    network = fresh_teacher(Data.open("synthetic:200,2,16", None), 1)
    run = partial(dump, network=network)
    finished = run(tmp_path / "a.h5", data=Data.open(f"folder:{old}", "resized-crop:16"))
    begun = interrupted(tmp_path / "b.h5", network=network, data=Data.open(f"folder:{old}", "resized-crop:16"))
    old.rename(new)
    moved = Data.open(f"folder:{new}", "resized-crop:16")
    assert run(finished, data=moved) == finished
    assert run(begun, data=moved).read_bytes() == finished.read_bytes()


def test_it_does_not_go_on_with_an_image_that_has_changed(dump, interrupted, pictures, tmp_path):
    root = shutil.copytree(pictures, tmp_path / "pictures")
    options = {"network": fresh_teacher(Data.open("synthetic:200,2,16", None), 1), "views": 1}
    path = interrupted(tmp_path / "x.h5", data=Data.open(f"folder:{root}", "resized-crop:16"), **options)
    shutil.copy(root / "train/cat/03.png", root / "train/cat/00.png")  # the same size, under the same name
    part = part_of(path)
    with open(part, "r+b") as file:  # what has yet to be done
        place = read_layout(part).places["blocks/knowledge/logits"]
        os.pwrite(file.fileno(), bytes(place.nbytes), place.offset)
    with pytest.raises(DataChanged, match=r"cat/00.png: .* another file than the teacher saw as row 0"):
        dump(path, data=Data.open(f"folder:{root}", "resized-crop:16"), **options)
    assert not path.exists()


def test_it_does_not_go_on_with_a_view_that_renders_other_pixels(dump, interrupted, data, tmp_path, monkeypatch):
    path = interrupted(tmp_path / "x.h5")
    render = type(data.view).render
    monkeypatch.setattr(type(data.view), "render", lambda self, images, seeds: render(self, images, seeds) ^ 1)
    with pytest.raises(PipelineChanged, match=r"x.h5.part, view crop-flip: .* in 64 of 64 canaries; restore"):
        dump(path)


@pytest.fixture
def photographs(pictures, tmp_path):
    """A folder that a test may change, and what else a dump of it takes."""
    root = shutil.copytree(pictures, tmp_path / "pictures")
    network = fresh_teacher(Data.open("synthetic:200,2,16", None), 1)
    return root, lambda: {"data": Data.open(f"folder:{root}", "resized-crop:16"), "network": network, "views": 1}


@pytest.mark.parametrize(("versions", "verdict"), [({}, PipelineChanged), ({"pillow": "0.1"}, LibraryChanged)])
def test_it_does_not_go_on_where_files_are_decoded_otherwise(
    dump, interrupted, photographs, tmp_path, monkeypatch, versions, verdict
):
    """Not by a single level: the records of a file are of one arithmetic."""
    _, options = photographs
    path, now = interrupted(tmp_path / "x.h5", **options()), canaries.library_versions() | versions
    before = encoded.decode
    monkeypatch.setattr(encoded, "decode", lambda path, data: before(path, data) ^ 1)
    monkeypatch.setattr(canaries, "library_versions", lambda: now)
    named = ", with pillow 0.1" * bool(versions)
    with pytest.raises(verdict, match=rf"x.h5.part, view resized-crop: .*grid at most .*\){named}"):
        dump(path, **options())


def test_a_finished_dump_of_images_that_have_changed_is_not_done(dump, photographs, tmp_path):
    root, options = photographs
    path = dump(tmp_path / "x.h5", **options())
    before = path.read_bytes()
    assert dump(path, **options()) == path
    for number in range(30):  # of the same size, under the same names
        shutil.copy(root / "train/dog" / f"{number:02}.png", root / "train/cat" / f"{number:02}.png")
    with pytest.raises(DataChanged, match=r"another file than the teacher saw as row \d+; restore it"):
        dump(path, **options())
    assert path.read_bytes() == before


def test_a_finished_dump_of_evaluation_images_that_have_changed_is_not_done(dump, photographs, tmp_path):
    root, options = photographs
    path = dump(tmp_path / "x.h5", **options())
    before = path.read_bytes()
    shutil.copy(root / "test/dog/03.png", root / "test/cat/03.png")  # of the same size, under the same name
    with pytest.raises(DataChanged, match="found another evaluation image as row 3"):
        dump(path, **options())
    assert path.read_bytes() == before


def test_a_finished_dump_is_not_done_where_the_view_renders_other_pixels(dump, copied, data, monkeypatch):
    render = type(data.view).render
    monkeypatch.setattr(type(data.view), "render", lambda self, images, seeds: render(self, images, seeds) ^ 1)
    with pytest.raises(PipelineChanged, match="in 64 of 64 canaries; restore"):
        dump(copied)


def test_the_teacher_is_described(cache, teacher):
    described = describe(teacher)
    assert {key: cache.meta["teacher"][key] for key in described} == json.loads(json.dumps(described))
