"""What CRD and the queue keep from step to step."""

import numpy as np
import pytest
import reference_embedding as ref
import torch
from embedding_cases import LABELS, STUDENT, TEACHER, batch_of, draw, made
from train_cases import Fixture, assert_same_weights, measured

from kdcache.errors import UsageError
from kdcache.methods import build
from kdcache.runs import Run
from kdcache.types import Batch


@pytest.mark.parametrize("text", ["crd", "queue"])
def test_a_loss_alone_changes_nothing_and_a_step_does(text):
    method, look, teacher = made(text), draw(STUDENT, 1), draw(TEACHER, 2)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    first = method.terms(look, teacher, batch_of())[text]
    assert first == method.terms(look, teacher, batch_of())[text]
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    method.stepped()
    assert method.terms(look, teacher, batch_of())[text] != first


@pytest.mark.parametrize("negatives", [1, 3, 5, 40])
def test_negatives_are_of_other_classes_and_repeat_only_where_they_must(negatives):
    method = build(f"crd:negatives={negatives}", STUDENT, TEACHER)
    method.meet(torch.tensor(LABELS))
    for epoch in range(1, 30):
        for row, chosen in enumerate(method.drawn(batch_of(epoch=epoch)).tolist()):
            different = [i for i, label in enumerate(LABELS) if label != LABELS[row]]
            assert set(chosen) <= set(different)
            assert len(chosen) == negatives
            assert len(set(chosen)) == min(negatives, len(different))


def test_every_row_of_another_class_is_drawn_as_often():
    method = build("crd:negatives=2", STUDENT, TEACHER)
    method.meet(torch.tensor(LABELS))
    counts = np.zeros(len(LABELS))
    for epoch in range(1, 2001):
        counts += np.bincount(method.drawn(batch_of(1, epoch))[0].tolist(), minlength=len(LABELS))
    assert counts[[0, 4, 7]].sum() == 0
    assert np.abs(counts[[1, 2, 3, 5, 6]] - 800).max() < 5 * np.sqrt(2000 * 0.4 * 0.6)


def test_without_labels_a_row_is_drawn_among_all():
    method = build("crd/nolabel:negatives=8", STUDENT, TEACHER)
    method.meet(torch.tensor(LABELS))
    assert all(set(rows) == set(range(8)) for rows in method.drawn(batch_of()).tolist())


def test_banks_move_half_way_towards_what_a_row_is_mapped_to_and_of_two_the_last_counts():
    method, look, teacher = made("crd"), draw(STUDENT, 1), draw(TEACHER, 2)
    before = method.mine_kept.clone()
    rows = np.array([5, 2, 5, 0])
    method.terms(look, teacher, Batch(torch.empty(4), torch.tensor(LABELS)[rows], rows, 8))
    method.stepped()
    mapped = ref.directions(ref.linear(method.mine, look["emb"]))
    for row, place in ((5, 2), (2, 1), (0, 3)):
        [want] = ref.directions([before[row] / 2 + mapped[place] / 2])
        torch.testing.assert_close(method.mine_kept[row], want)
    others = [1, 3, 4, 6, 7]
    assert torch.equal(method.mine_kept[others], before[others])


def test_scores_are_divided_by_those_of_the_first_step_ever_after():
    method = made("crd")
    method.terms(draw(STUDENT, 1), draw(TEACHER, 2), batch_of())
    method.stepped()
    total = method.total.clone()
    assert (total > 0).all()
    method.terms(draw(STUDENT, 3), draw(TEACHER, 4), batch_of())
    method.stepped()
    assert torch.equal(method.total, total)


def test_a_queue_begins_with_random_directions_and_holds_the_last_rows():
    method = build("queue:size=5", STUDENT, TEACHER).double()
    method.meet(torch.tensor(LABELS))
    torch.testing.assert_close(method.kept.norm(dim=1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)
    whole = list(method.kept.clone())
    for seed in range(4):
        student, teacher = draw(STUDENT, seed, 3), draw(TEACHER, 10 + seed, 3)
        got = method.terms(student, teacher, batch_of(3))["queue"]
        known = torch.stack(whole[-5:])
        torch.testing.assert_close(got, ref.queue(method.connector, student["emb"], teacher["emb"], known))
        method.stepped()
        whole += teacher["emb"]


def test_scores_of_many_negatives_keep_their_digits():
    """Each adds little: as logarithms of quotients near 1, they lost three digits in f32."""
    found = []
    labels = torch.arange(4096) % 4
    for dtype in (torch.float64, torch.float32):
        method = build("crd:negatives=2048", STUDENT, TEACHER).to(dtype)
        method.meet(labels)
        found.append(method.terms(draw(STUDENT, 1, dtype=dtype), draw(TEACHER, 2, dtype=dtype), batch_of())["crd"])
    assert found[1].item() == pytest.approx(found[0].item(), rel=2e-6)


@pytest.mark.parametrize("text", ["crd", "queue"])
def test_rows_that_it_does_not_know_of_are_refused_with_the_remedy(text):
    method = build(text, STUDENT, TEACHER)
    with pytest.raises(UsageError, match="call `meet` with the labels"):
        method.terms(draw(STUDENT, 1), draw(TEACHER, 2), batch_of())


@pytest.mark.parametrize("text", ["crd", "queue", "st+crd"])
def test_it_says_what_it_holds(text):
    method = build(text, STUDENT, TEACHER)
    method.meet(torch.tensor(LABELS))
    kept = [value for name, value in method.state_dict().items() if name.endswith("kept")]
    assert method.held(len(LABELS)) == sum(value.nbytes for value in kept)


class Interrupted(Exception):
    pass


def test_a_continued_run_has_the_banks_of_one_that_was_not_interrupted(tmp_path):
    fixture = Fixture(tmp_path, "resnet8", ["crd"])
    text = "crd:negatives=20+queue"
    [whole], records = fixture.student(text, epochs=3).train(Run(tmp_path / "whole", {}))

    def stop(line):
        if line.startswith("epoch 2"):
            raise Interrupted

    folder = tmp_path / "part"
    with pytest.raises(Interrupted):
        fixture.student(text, epochs=3).train(Run(folder, {}), remark=stop)
    [again], continued = fixture.student(text, epochs=3).train(Run(folder, {}, resume=True))
    assert_same_weights(again, whole)
    assert measured(continued) == measured(records)
    states = [(path / "state.safetensors").read_bytes() for path in (tmp_path / "whole", folder)]
    assert states[0] == states[1]
