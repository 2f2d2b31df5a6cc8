"""A training script that knows nothing of kdcache, and asks timm for everything as timm's train.py does."""

import argparse

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, LogitDistillationTask
from timm.utils import AverageMeter, accuracy

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--dataset", default="")
parser.add_argument("--model", default="vit_tiny_patch16_224")
parser.add_argument("--num-classes", type=int)
parser.add_argument("--img-size", type=int)
parser.add_argument("--batch-size", type=int, default=400)
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--aa")
parser.add_argument("--reprob", type=float, default=0.0)
parser.add_argument("--color-jitter", type=float, default=0.4)
parser.add_argument("--kd-model-name")
parser.add_argument("--smoothing", type=float, default=0.1)


def main():
    args = parser.parse_args()
    torch.manual_seed(42)
    device, shape = torch.device("cpu"), {"img_size": args.img_size, "patch_size": 8, "depth": 2, "embed_dim": 48}
    model = create_model(args.model, num_classes=args.num_classes, **shape)
    config = resolve_data_config(vars(args), model=model)
    where = {"root": args.data_dir, "download": False, "class_map": "", "input_img_mode": "RGB"}
    train = create_dataset(args.dataset, split="train", is_training=True, batch_size=args.batch_size, **where)
    held_out = create_dataset(args.dataset, split="validation", is_training=False, **where)
    common = {"mean": config["mean"], "std": config["std"], "device": device, "num_workers": 0}
    altered = {"re_prob": args.reprob, "auto_augment": args.aa, "color_jitter": args.color_jitter, "hflip": 0.5}
    size = config["input_size"]
    loader = create_loader(train, input_size=size, batch_size=args.batch_size, is_training=True, **common, **altered)
    loader_eval = create_loader(held_out, input_size=size, batch_size=args.batch_size, is_training=False, **common)
    criterion = LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    if args.kd_model_name:
        task = LogitDistillationTask(student_model=model, teacher_model=args.kd_model_name, criterion=criterion)
    else:
        task = ClassificationTask(model=model, criterion=criterion, device=device, dtype=None, verbose=False)
    optimizer = create_optimizer_v2(task.get_trainable_module(), "sgd", lr=0.01)
    losses = AverageMeter()
    for epoch in range(args.epochs):
        loader.dataset.set_epoch(epoch)
        task.get_trainable_module().train()
        for images, target in loader:
            optimizer.zero_grad()
            result = task(images, target)
            result["loss"].backward()
            optimizer.step()
            losses.update(result["loss"].item(), len(images))
    seen, right = 0, 0.0
    task.get_eval_model().eval()
    for images, target in loader_eval:
        with torch.inference_mode():
            right += float(accuracy(task.get_eval_model()(images), target)[0]) * len(images) / 100
        seen += len(images)
    print(f"loss {losses.avg:.6f} right {right:.0f} of {seen} terms {sorted(result)}")


if __name__ == "__main__":
    main()
