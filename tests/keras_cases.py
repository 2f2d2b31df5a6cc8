"""What tests of the adapter for Keras need of Keras, whose import takes seconds."""

import os

import torch
from torch import nn
from trainer_cases import EPOCHS

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers


class AskedModule(nn.Module):
    """A network of ours for images as Keras has them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval()

    def forward(self, images):
        return self.network(images.permute(0, 3, 1, 2).to(torch.uint8))


class Asked(layers.Layer):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.module = layers.TorchModuleWrapper(AskedModule(network))

    def call(self, images):
        return self.module(images)

    def compute_output_spec(self, images):
        return keras.KerasTensor((None, 10))


def small():
    keras.utils.set_random_seed(0)
    steps = [layers.Rescaling(1 / 255), layers.Conv2D(16, 3, 4, activation="relu"), layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((32, 32, 3)), *steps])


def fitted(teacher, student, batches):
    divergence = keras.losses.KLDivergence()  # by its name, 3.15 takes it of the logits themselves
    losses = keras.distillation.LogitsDistillation(temperature=4.0, loss=divergence)
    distiller = keras.distillation.Distiller(teacher, student, losses, student_loss_weight=0.1)
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.05), labels, metrics=["sparse_categorical_accuracy"])
    return distiller.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0).history
