"""A student of stored answers, with Lightning."""

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

import kdcache
from kdcache.adapters.lightning import CachedData, Student


class Mine(Student):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


seed_everything(0, verbose=False)
network = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))

images = kdcache.CachedDataset("logits.h5").numbered()
knowledge_loss = kdcache.KnowledgeLoss(images, "st", network)

trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, log_every_n_steps=1)
trainer.fit(Mine(network, knowledge_loss), CachedData(images, batch_size=500))
