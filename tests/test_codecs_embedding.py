"""What embeddings are stored as: asked for by name, apart from the logits, back within the codec's bound."""

import pytest
import torch
from cli_cases import good, refused
from train_cases import teacher_of

from kdcache.cache import open_cache
from kdcache.codecs import CODECS, EMBEDDING, asked
from kdcache.dump.fitting import record_sizes
from kdcache.errors import UsageError
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS, build
from kdcache.train import Settings

SHAPES = {"logits": (10,), "emb": (64,), "f3.post": (64, 8, 8), "f3.pre": (64, 8, 8)}
READERS = [name for name, method in METHODS.items() if "emb" in method.taps and not method.live_only]


@pytest.fixture(scope="module")
def data():
    return Data.open("synthetic:64,4,16", "crop-flip")


@pytest.fixture(scope="module")
def stored(data, tmp_path_factory):
    """Caches of one teacher's logits and embeddings by what was asked for."""
    network, folder, made = teacher_of("tiny-3", data), tmp_path_factory.mktemp("stored"), {}

    def get(codec: str):
        if codec not in made:
            options = DumpOptions(folder / f"{len(made)}.h5", 2, "srd", codec=codec)
            with make_dump(network, data, options) as dump:
                made[codec] = open_cache(dump.run())
        return made[codec]

    return get


@pytest.mark.parametrize("codec", EMBEDDING)
def test_embeddings_come_back_within_the_bound_and_logits_as_without(stored, codec):
    cache, plain, exact = stored(f"int8,emb={codec}"), stored("int8"), stored("f32")
    assert (plain.layout.codecs["emb"].name, exact.layout.codecs["emb"].name) == ("f16", "f32")
    for view in range(cache.views):
        found, truth = (of.read(view, range(len(of))) for of in (cache, exact))
        taken = cache.layout.codecs["emb"]
        assert taken.name == codec or (codec == "auto" and taken.name in EMBEDDING)
        wrong = (found["emb"].double() - truth["emb"].double()).abs()
        assert (wrong <= taken.bound(truth["emb"])).all()
        assert torch.equal(found["logits"], plain.read(view, range(len(plain)))["logits"])


def test_inspect_says_what_was_taken_and_what_was_measured(stored):
    page = good(f"inspect {stored('int8,emb=auto').path}").out
    table = page.partition("emb, as measured before the dump:")[2].splitlines()[1:5]
    assert "of what tells rows apart" in table[0]
    assert [line.replace(">", "").split()[0] for line in table[1:]] == ["int8", "f16", "f32"]
    assert sum(line.startswith(">") for line in table) == 1
    assert "emb        int8" in good(f"inspect {stored('f16,emb=int8').path}").out


@pytest.mark.parametrize("name", READERS)
def test_every_method_of_embeddings_trains_from_eight_bits(name):
    method = build(name, SHAPES, SHAPES)
    assert record_sizes(method, SHAPES, "emb=int8")["emb"] == CODECS["int8"]((64,)).size == 68
    assert record_sizes(method, SHAPES, "f16,emb=auto")["emb"] == 128


def test_students_learn_from_eight_bits(stored, data):
    cache = stored("f16,emb=int8")
    student = Student(data, "tiny-2", "srd", Settings(epochs=1, batch=16), taught_by(cache))
    assert 0 <= student.train()[1][-1]["top1"] <= 1


def test_what_a_text_asks_for():
    assert asked("topk:5") == {"logits": "topk:5"}
    assert asked("emb=int8") == {"logits": "f16", "emb": "int8"}
    assert asked("auto, emb=f32") == asked("emb=f32,logits=auto") == {"logits": "auto", "emb": "f32"}


WRONG = {
    "int8,f16": "one codec of the logits, and one of embeddings",
    "emb=int8,emb=f16": "one codec of the logits, and one of embeddings",
    "at.f1=int8": "write it like f16,emb=int8",
    "=int8": "write it like f16,emb=int8",
    "emb=topk:4": "embeddings as auto, f32, f16, int8",
    "emb=int3": "did you mean int8",
    "emb=": "embeddings as",
    "f17,emb=int8": "f17",
    "": "a codec",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_codec_is_refused(text):
    with pytest.raises(UsageError, match="`codec`") as error:
        record_sizes(build("feat", SHAPES, SHAPES), SHAPES, text)
    assert WRONG[text] in str(error.value) or not text


def test_a_codec_of_embeddings_that_nobody_stores_is_refused(data, tmp_path):
    with (
        pytest.raises(UsageError, match="embeddings among what is stored, found logits; leave emb= out"),
        make_dump(teacher_of("tiny-3", data), data, DumpOptions(tmp_path / "a.h5", 1, "st", codec="emb=int8")) as dump,
    ):
        dump.run()
    line = "plan --teacher tiny-3 --data synthetic:64,4,16 --codec emb=int8 --views 1 --epochs 1 --device cpu"
    refused(line, 2, "--codec emb=int8", "leave emb= out")


def test_a_plan_reckons_with_it():
    line = "plan --teacher tiny-3 --data synthetic:64,4,16 --method srd --views 1 --epochs 1 --device cpu --json"
    plain, small = (good(f"{line} --codec {codec}").json() for codec in ("f16", "f16,emb=int8"))
    assert small["bytes_per_row"]["emb"] == CODECS["int8"]((6,)).size != plain["bytes_per_row"]["emb"] == 12
    assert {one["codec"]: one["bytes"] for one in small["codecs"]}["f16"] == small["bytes"]
