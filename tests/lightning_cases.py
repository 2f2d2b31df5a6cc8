"""What tests of the adapter for Lightning need of Lightning, whose import takes seconds."""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from trainer_cases import soft_target

from kdcache.adapters.lightning import CachedData, Student

__all__ = ["CachedData", "Live", "Mine", "Trainer", "seed_everything"]


class Live(LightningModule):
    """As anybody writes it: the teacher is asked in every step."""

    def __init__(self, network: nn.Module, teacher: nn.Module, images):
        super().__init__()
        self.network, self.asked, self.images = network, (teacher.eval(),), images  # no part of what is trained

    def on_train_epoch_start(self):
        self.images.set_epoch(self.current_epoch)

    def training_step(self, batch, number):
        images, targets = batch
        [teacher] = self.asked
        return soft_target(self.network(teacher.normalize(images)), teacher(images), targets[:, 0])

    def validation_step(self, batch, number):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.05)


class Mine(Student):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)
