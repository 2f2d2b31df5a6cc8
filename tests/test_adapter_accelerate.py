"""Accelerate: the script of its page ends as with a live teacher in the same loop."""

import torch
from torch import nn
from torch.utils.data import DataLoader
from trainer_cases import EPOCHS, assert_close, ran, soft_target, taught

import kdcache


def live(teacher: nn.Module, cache) -> nn.Module:
    """The script with a teacher that is asked in every step."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator()
    student = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    images = kdcache.CachedDataset(cache).numbered()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    loader = DataLoader(images, 500, shuffle=True)
    student, optimizer, loader, teacher = accelerator.prepare(student, optimizer, loader, teacher.eval())
    for epoch in range(EPOCHS):
        images.set_epoch(epoch)
        for batch, targets in loader:
            optimizer.zero_grad()
            accelerator.backward(soft_target(student(batch / 255), teacher(batch), targets[:, 0]))
            optimizer.step()
    return student


def test_its_script_ends_as_with_a_live_teacher(tmp_path):
    teacher = taught(tmp_path)
    found = ran("accelerate", tmp_path)
    assert_close(found["student"], live(teacher, tmp_path / "logits.h5"))
