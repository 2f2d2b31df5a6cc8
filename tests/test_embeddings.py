"""Accuracy by embeddings, against scikit-learn; and where they come from: a network, or a cache."""

import warnings

import numpy as np
import pytest
import torch
from cli_cases import DATA, good, refused
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from train_cases import dumped, teacher_of

from kdcache.errors import CacheError, TeacherError, UsageError
from kdcache.jobs import Data, evaluate
from kdcache.jobs.embeddings import Embedded, measured, of_cache, of_network
from kdcache.measures import embeddings
from kdcache.models.network import Network, evaluating, watch
from kdcache.models.weights import save

F64 = torch.float64


def drawn(seed, rows=300, width=6, classes=4):
    """Classes that overlap; the first dimension is much wider than the others, and the last one is constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    points = centres[labels] + torch.randn(rows, width, generator=generator)
    points[:, 0] *= 50
    points[:, -1] = 2.0
    return points, labels


@pytest.mark.parametrize("k", [1, 5, 300])
def test_neighbours_vote_as_those_of_scikit_learn(k, monkeypatch):
    monkeypatch.setattr(embeddings, "CHUNK", 64)
    (known, labels), (asked, _) = drawn(1), drawn(2, 100)
    votes = embeddings.neighbours(known.double(), labels, asked.double(), k, 4)
    other = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = other.fit(known.double().numpy(), labels.numpy()).predict_proba(asked.double().numpy())
    np.testing.assert_allclose((votes / votes.sum(1, keepdim=True)).numpy(), expected, rtol=1e-6, atol=1e-9)


def test_a_linear_layer_is_that_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(embeddings, "CHUNK", 64)
    (known, labels), (asked, _) = drawn(1), drawn(2, 100)
    logits = embeddings.linear_layer(known, labels, asked, 4)
    scaler = StandardScaler().fit(known.double().numpy())
    other = LogisticRegression(tol=1e-10, max_iter=5000)
    other.fit(scaler.transform(known.double().numpy()), labels.numpy())
    expected = other.predict_proba(scaler.transform(asked.double().numpy()))
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(logits, embeddings.linear_layer(known, labels, asked, 4))


def test_a_class_without_images_is_never_the_answer():
    known, labels = drawn(1)
    asked, _ = drawn(2, 100)
    some = labels != 2
    logits = embeddings.linear_layer(known[some], labels[some], asked, 5)
    assert torch.equal(logits[:, [2, 4]], torch.full((100, 2), -torch.inf, dtype=F64))
    assert set(logits.argmax(1).tolist()) == {0, 1, 3}
    assert (embeddings.neighbours(known[some], labels[some], asked, 3, 5)[:, [2, 4]] == 0).all()


def test_embeddings_of_length_0_are_like_none():
    votes = embeddings.neighbours(torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.zeros(1, 2), 3, 2)
    torch.testing.assert_close(votes, torch.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("labels", "ask", "message"),
    [([0, 1, 1], {"knn": 4}, "`knn`: expected at most the 3"), ([1, 1, 1], {"linear_probe": True}, "two classes")],
)
def test_what_cannot_be_compared_is_refused(labels, ask, message):
    rows = Embedded(torch.eye(3), torch.tensor(labels), torch.eye(3), torch.tensor(labels))
    with pytest.raises(UsageError, match=message):
        measured(rows, 2, **{"knn": None, "linear_probe": False} | ask)


@pytest.fixture(scope="module")
def data():
    """Some images of both splits have no label."""
    found = Data.open("synthetic:90,4,16", "crop-flip")
    for source in (found.train, found.held_out):
        source.labels[::7] = -1
    return found


@pytest.fixture(scope="module")
def network(data) -> Network:
    return teacher_of("resnet8", data)


def test_those_of_a_network_are_of_the_images_as_they_are(data, network):
    found = of_network(network, data, "cpu", 0)
    for rows, labels, source in ((*found[:2], data.train), (*found[2:], data.held_out)):
        some = np.flatnonzero(source.labels >= 0)
        with evaluating(network), watch(network, ["emb"]) as look, torch.no_grad():
            expected = look(source.read(some))["emb"]
        torch.testing.assert_close(rows, expected)
        assert labels.tolist() == source.labels[some].tolist()


def test_those_of_a_cache_are_what_lies_in_it(data, network, tmp_path):
    cache = dumped(tmp_path / "a.h5", data, network, "feat")
    found, own = of_cache(cache, data), of_network(network, data, "cpu", 0)
    some = np.flatnonzero(data.train.labels >= 0)
    assert torch.equal(found.known, cache.read(0, some, ["emb"])["emb"])
    torch.testing.assert_close(found.asked, own.asked, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.truth, own.truth)
    with pytest.raises(CacheError, match="embeddings, of evaluation images, too, found logits"):
        of_cache(dumped(tmp_path / "b.h5", data, network, "st"), data)


def test_a_network_without_an_embedding_says_so(data):
    from test_train import Bare

    bare = data.network(Bare(4), 0)
    with pytest.raises(TeacherError, match="a network whose embedding is known, found no tap emb"):
        of_network(bare, data, "cpu", 0)


@pytest.mark.usefixtures("home")
def test_the_command_measures_a_checkpoint_and_a_cache(tmp_path):
    good(f"dump-logits --teacher tiny-3 {DATA} --views 1 --method feat -o {tmp_path}/emb.h5")
    found = good(f"evaluate {tmp_path}/emb.h5 --knn 5 --linear-probe --json").json()
    assert found["knn"] == 5
    assert {found["compared_with"]} == {64}
    assert 0 <= found["knn_top1"] <= 1
    assert 0 <= found["probe_top1"] <= 1
    said = good(f"evaluate {tmp_path}/emb.h5 --knn 5").out
    assert "64 training images, the 5 nearest" in said
    assert "kNN accuracy" in said or "knn_top1" in said
    refused(f"evaluate {tmp_path}/emb.h5 --knn 65", 2, "at most the 64 training images")


def test_a_network_of_other_classes_is_measured_by_its_embedding_alone(data, network, tmp_path):
    """As a student that learnt from a teacher of other classes, without labels."""
    save(network, tmp_path / "net.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(str(tmp_path / "net.safetensors"), None, "synthetic:80,7,16", None, "cpu", 0, knn=3)
        assert {"knn_top1", "compared_with"} <= found.keys()
        assert "top1" not in found
        both = evaluate(str(tmp_path / "net.safetensors"), None, "synthetic:80,4,16", None, "cpu", 0, knn=3)
        assert {"knn_top1", "top1"} <= both.keys()
        with pytest.raises(TeacherError, match="7"):
            evaluate(str(tmp_path / "net.safetensors"), None, "synthetic:80,7,16", None, "cpu", 0)
