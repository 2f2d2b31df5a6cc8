"""What tests of the adapter for transformers need of transformers, whose import takes seconds."""

import torch
from torch import nn
from trainer_cases import EPOCHS, soft_target
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

import kdcache
from kdcache.adapters.transformers import trainer_arguments


class LiveTrainer(Trainer):
    """As the documentation of transformers has it: the teacher is asked in compute_loss."""

    def compute_loss(self, model, inputs, **_):
        with torch.no_grad():
            answers = self.teacher(inputs["pixel_values"])
        return soft_target(model(inputs["pixel_values"]).logits, answers, inputs["labels"][:, 0])


def small() -> ResNetForImageClassification:
    set_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**shape, num_labels=10))


def settings(folder, **changed) -> TrainingArguments:
    usual = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": 500, "save_strategy": "no"}
    return TrainingArguments(str(folder / "out"), **usual | changed)


class Plain(nn.Module):
    """A network that is none of transformers', and answers with a tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 4), nn.Linear(512, 10)

    def forward(self, pixel_values, labels=None):
        return self.fc(self.conv(pixel_values).relu().flatten(1))


def unmixed() -> nn.Module:
    """A ResNet whose images do not see each other."""
    student = small()
    for norm in student.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = lambda x: x
    return student


STAGES = "f1=resnet.embedder,f2=resnet.encoder.stages.0,f3=resnet.encoder.stages.1"
STUDENTS = {"st": (Plain, None), "st+at": (unmixed, STAGES)}


def trained(place, method: str, batch: int, batches: int) -> nn.Module:
    make, taps = STUDENTS[method]
    set_seed(0)
    student = make().double()  # batches of other sizes round otherwise
    loss = kdcache.KnowledgeLoss(kdcache.CachedDataset(place / "logits.h5").numbered(), method, student, taps=taps)
    given = trainer_arguments(loss)
    given["data_collator"].normalize.double()
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": batches}
    Trainer(student, settings(place, num_train_epochs=1, optim="sgd", learning_rate=0.01, **sizes), **given).train()
    return student


def with_connector(images):
    """A loss that trains a map of the student's embedding, and the student."""
    set_seed(0)
    student = Plain()
    return kdcache.KnowledgeLoss(images, "feat", student, taps="emb=fc:in"), student
