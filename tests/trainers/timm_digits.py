"""A student of stored answers, with what timm has for a loop of one's own."""

import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2

import kdcache
from kdcache.adapters.timm import CachedTask, create_loader

torch.manual_seed(0)
device = torch.device("cpu")
shape = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48}
student = timm.create_model("vit_tiny_patch16_224", **shape, num_classes=10).to(device)

images = kdcache.CachedDataset("logits.h5").numbered()
task = CachedTask(student, kdcache.KnowledgeLoss(images, "st:1:ce=1", student), device=device, verbose=False)
config = resolve_data_config(model=student)
fed = {"mean": config["mean"], "std": config["std"], "num_workers": 0, "device": device}
loader = create_loader(images, (3, 32, 32), 400, is_training=True, **fed)

optimizer = create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.05)
for epoch in range(2):
    images.set_epoch(epoch)
    for batch, target in loader:
        optimizer.zero_grad()
        task(batch, target)["loss"].backward()
        optimizer.step()
