"""KnowledgeLoss in a loop of somebody else's is the training of ours, and hears when something cannot be right."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from train_cases import Fixture, asks, assert_same_weights

import kdcache
from kdcache.batches import training_plan
from kdcache.errors import KdcacheWarning, TeacherError, UsageError
from kdcache.jobs import Data
from kdcache.methods import METHODS
from kdcache.models.network import Network

# two students, gradients that are clipped before they are added, two views in a step, what is not cached
ELSEWHERE = {"dml", "kdsvd", "kdeid", "mhgd", "mlkd", "reviewkd"}
NAMES = [name for name in METHODS if name not in ELSEWHERE]
SHOWN = {"st", "at", "ab", "crd", "hard"}  # logits, maps, two stages, memory, a second head
STEPS = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "warmup": 0.0, "schedule": "step", "milestones": ()}
EPOCHS = 2

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    texts = [name for name in METHODS if asks(name)]
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", texts)


@pytest.fixture
def images(same):
    return kdcache.CachedDataset(same.cache).numbered()


def trained(student: Network, loss: kdcache.KnowledgeLoss, lr: float, between=lambda: None) -> Network:
    """A loop as anybody writes it, over the batches of ours."""
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr)
    images, rows = loss.images, len(loss.images)
    student.train()
    for epoch in range(EPOCHS):
        images.set_epoch(epoch)
        for items in training_plan(rows, images.data.views, epoch + 1, 16, 0):
            pixels, targets = map(torch.stack, zip(*(images[int(item) % rows] for item in items), strict=True))
            optimizer.zero_grad()
            loss(student(pixels), targets).backward()
            optimizer.step()
            between()
    return student


@pytest.mark.parametrize(
    "text", [text if text in SHOWN else pytest.param(text, marks=pytest.mark.slow) for text in NAMES]
)
def test_a_loop_of_ones_own_ends_as_ours(same, images, text):
    settings = {"epochs": EPOCHS, "lr": 0.02, **STEPS}
    [expected], _ = same.student(text, **settings).train()
    student = same.student(text, **settings).begun(0)
    loss = kdcache.KnowledgeLoss(images, text, student, epochs=EPOCHS)
    assert_same_weights(trained(student, loss, 0.02), expected)


def test_what_passes_in_evaluation_is_not_taken_for_the_batch(same, images):
    settings = {"epochs": EPOCHS, "lr": 0.02, **STEPS}
    ends = []
    for evaluates in (False, True):
        student = same.student("at", **settings).begun(0)
        loss = kdcache.KnowledgeLoss(images, "at", student)

        def evaluated(student=student, evaluates=evaluates):
            if evaluates:
                student.eval()(torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
                student.train()

        ends.append(trained(student, loss, 0.02, evaluated))
    assert_same_weights(*ends)


def test_a_student_may_answer_with_an_object(images):
    targets = torch.stack([images[row][1] for row in range(5)])
    loss, logits = kdcache.KnowledgeLoss(images), torch.randn(5, 4)
    assert torch.equal(loss(SimpleNamespace(logits=logits), targets), loss(logits, targets))


def test_of_mixed_images_each_label_has_its_share(dump, tmp_path):
    data = Data.open("synthetic:64,4,8", "crop-flip+cutmix")
    cached = kdcache.CachedDataset(dump(tmp_path / "a.h5", data=data, network=data.network("tiny-3", 0).eval()))
    images, logits = cached.numbered(), torch.randn(64, 4)
    images.set_epoch(1)
    targets = torch.stack([target for _, target in images.__getitems__(range(64))])
    expected = F.cross_entropy(logits, torch.stack([cached[64 + row][1] for row in range(64)]))
    torch.testing.assert_close(kdcache.KnowledgeLoss(images, "none")(logits, targets), expected)
    with pytest.raises(UsageError, match="images of one class each"):
        kdcache.KnowledgeLoss(images, "dkd")


def test_workers_that_live_on_see_the_next_epoch(images):
    loader = DataLoader(images, 25, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        images.set_epoch(epoch)
        shown = list(loader)
        items = torch.cat([targets[:, 1] for _, targets in shown])
        assert items.tolist() == [epoch % 2 * 49 + row for row in range(49)]
        assert torch.equal(torch.cat([pixels for pixels, _ in shown])[7], images.data[int(items[7])][0])


def test_the_same_view_for_three_passes_is_told(images):
    targets = torch.stack([images[row][1] for row in range(49)])
    loss = kdcache.KnowledgeLoss(images)
    for _ in range(2):
        loss(torch.zeros(49, 4), targets)
    with pytest.warns(KdcacheWarning, match=r"a third pass shows the same one of 2 views: call set_epoch\(epoch\)"):
        loss(torch.zeros(49, 4), targets)
    for epoch in range(4):
        images.set_epoch(epoch)
        loss(torch.zeros(49, 4), targets)


def test_an_image_that_the_teacher_has_not_answered_has_its_label_alone(same, images):
    source = images.data.source
    mine = [(pixels, int(label)) for pixels, label in zip(source.read([7, 5]), source.labels[[7, 5]], strict=True)]
    mine.append((255 - mine[0][0], 2))
    found = kdcache.CachedDataset(same.cache, images=mine, missing="plain").numbered()
    targets = torch.stack([found[row][1] for row in range(3)])
    logits, every = torch.randn(3, 4), torch.stack([images[row][1] for row in (7, 5)])
    plain = F.cross_entropy(logits[2:], targets[2:, 0])
    expected = (2 * kdcache.KnowledgeLoss(images)(logits[:2], every) + plain) / 3
    torch.testing.assert_close(kdcache.KnowledgeLoss(found)(logits, targets), expected)


TARGETS = {
    "labels alone": ([0, 1], "int64 .n, 2., a label and an item number"),
    "floats": ([[0.0, 1.0]], "int64 .n, 2., a label and an item number"),
    "beyond the last": ([[0, 98]], "item numbers from 0 to 97, found 98"),
    "before the first": ([[0, -5]], "item numbers from 0 to 97, found -5"),
    "another label": ([[-1, 3]], "item 3 with label -1, where the data has"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_are_none_are_refused(images, case):
    targets, words = TARGETS[case]
    with pytest.raises(UsageError, match=words):
        kdcache.KnowledgeLoss(images)(torch.zeros(len(targets), 4), torch.tensor(targets))


CANNOT = {
    "dml": "a method of one student",
    "mlkd": "a method of one view",
    "mhgd": "clips the gradients",
    "at": "a student that shows logits, f1.raw",
    "fsp": "`epochs`, those of the training",
    "hard": "a student that shows logits, logits.dist",
    "nope": "a method out of",
}


@pytest.mark.parametrize("text", CANNOT)
def test_what_a_foreign_loop_cannot_do_is_said_at_once(same, images, text):
    student = same.student("st").begun(0) if text in ("mhgd", "fsp", "dml", "mlkd") else None
    with pytest.raises(UsageError, match=CANNOT[text]):
        kdcache.KnowledgeLoss(images, text, student)


def test_a_method_of_two_stages_wants_to_know_the_epoch(same, images):
    student = same.student("ab").begun(0)
    loss = kdcache.KnowledgeLoss(images, "ab", student, epochs=4)
    pixels, target = images[0]
    with pytest.raises(UsageError, match="an epoch out of 4, found none; call set_epoch"):
        loss(student(pixels[None]), target[None])


def test_a_method_of_which_a_term_fades_wants_to_know_how_many_epochs(same, images):
    with pytest.raises(UsageError, match="`epochs`, those of the training, found nothing, where a term fades away"):
        kdcache.KnowledgeLoss(images, "wkd", same.student("st").begun(0))


def test_a_network_of_other_classes_is_refused(images):
    with pytest.raises(TeacherError, match=r"logits of shape \[2, 4\]"):
        kdcache.KnowledgeLoss(images, "st", nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)))


def test_what_keeps_rows_is_refused_among_processes_however_late_they_are_made(images, monkeypatch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, len(images.data.classes)))
    loss = kdcache.KnowledgeLoss(images, "queue", network, taps="emb=1")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="method queue: expected one process"):
        loss(torch.zeros(2, 10), torch.zeros(2, 2, dtype=torch.int64))
