"""Lightning: the images as a `LightningDataModule`, and a `LightningModule` that learns from stored answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdcache.api import KnowledgeLoss, NumberedImages
from kdcache.models.network import logits_in
from kdcache.on_demand import extra

lightning = extra("lightning.pytorch", "lightning", __name__)


class CachedData(lightning.LightningDataModule):
    """The images of a cache in batches, and its evaluation images; `options` are those of torch's DataLoader."""

    def __init__(self, images: NumberedImages, batch_size: int, **options):
        super().__init__()
        self.images, self.batch_size, self.options = images, batch_size, options

    def train_dataloader(self) -> DataLoader:
        if self.trainer:  # of an epoch that is gone on with in its middle, no hook tells the beginning
            self.images.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return DataLoader(self.images, self.batch_size, **{"shuffle": "sampler" not in self.options} | self.options)

    def val_dataloader(self) -> DataLoader | list:
        """Nothing where there are none, as for images that were found by content."""
        data, options = self.images.data, self.options | {"drop_last": False, "shuffle": False, "sampler": None}
        return DataLoader(data.evaluation(answers=False), self.batch_size, **options) if data.opened.held_out else []


class Student(lightning.LightningModule):
    """A network for normalised images under the loss of a method; a subclass says `configure_optimizers`.

    `self.parameters()` are those of the network, and those that the method trains beside it.
    mean, std    what the network is fed with; None: those of the data
    """

    def __init__(
        self, network: nn.Module, loss: KnowledgeLoss, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.normalize = loss.images.data.normalize(mean, std)
        self.network, self.knowledge_loss = network, loss

    def forward(self, images: Tensor) -> Tensor:
        """Logits of uint8 images."""
        return logits_in(self.network(self.normalize(images)))

    def on_train_epoch_start(self) -> None:
        self.knowledge_loss.images.set_epoch(self.current_epoch)

    def training_step(self, batch: Sequence[Tensor], number: int) -> Tensor:
        images, targets = batch
        terms = self.knowledge_loss.terms(self(images), targets)
        self.log_dict({f"train_{name}": value.detach() for name, value in terms.items()}, batch_size=len(images))
        return sum(terms.values())

    def validation_step(self, batch: Sequence[Tensor], number: int) -> None:
        images, labels = batch
        known = labels >= 0
        if not known.any():
            return
        logits, labels = self(images)[known], labels[known]
        measures = {
            "val_loss": F.cross_entropy(logits, labels),
            "val_top1": (logits.argmax(1) == labels).float().mean(),
        }
        self.log_dict(measures, batch_size=len(labels))
