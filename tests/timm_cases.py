"""What tests of the adapter for timm need of timm, whose import takes seconds."""

import timm
import torch
from timm.data import create_loader as made_by_timm
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import LogitDistillationTask
from torch import nn

from kdcache.adapters.timm import CachedTask, create_loader
from kdcache.adapters.timm_script import main, smoothing_of

__all__ = [
    "BinaryCrossEntropy",
    "CachedTask",
    "LogitDistillationTask",
    "create_loader",
    "create_optimizer_v2",
    "made_by_timm",
    "main",
    "smoothing_of",
]
SHAPE = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48}


def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SHAPE, num_classes=10)


class Asked(nn.Module):
    """The teacher for images that timm has normalised for a student: it is shown their pixels."""

    def __init__(self, teacher: nn.Module, student: nn.Module):
        super().__init__()
        self.teacher, self.pretrained_cfg = teacher, student.pretrained_cfg
        self.mean, self.std = (torch.tensor(student.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    def forward(self, images):
        return self.teacher(((images * self.std + self.mean) * 255).round().to(torch.uint8))
