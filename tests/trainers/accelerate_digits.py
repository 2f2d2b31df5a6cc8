"""A student of stored answers, with Accelerate."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

import kdcache

torch.manual_seed(0)
accelerator = Accelerator()
student = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))

images = kdcache.CachedDataset("logits.h5").numbered()
knowledge_loss = kdcache.KnowledgeLoss(images, "st", student)
optimizer = torch.optim.SGD([*student.parameters(), *knowledge_loss.parameters()], lr=0.05)
loader = DataLoader(images, 500, shuffle=True)

student, optimizer, loader, knowledge_loss = accelerator.prepare(student, optimizer, loader, knowledge_loss)
for epoch in range(2):
    images.set_epoch(epoch)
    for batch, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(knowledge_loss(student(batch / 255), targets))
        optimizer.step()
