"""A student of stored answers, with the Distiller of Keras on torch."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers

import kdcache
from kdcache.adapters.keras import MethodLoss, loader, teacher_and_student

keras.utils.set_random_seed(0)
steps = [layers.Rescaling(1 / 255), layers.Conv2D(16, 3, 4, activation="relu"), layers.Flatten(), layers.Dense(10)]
student = keras.Sequential([keras.Input((32, 32, 3)), *steps])

data = kdcache.CachedDataset("logits.h5")
teacher, taught = teacher_and_student(student, data)

distiller = keras.distillation.Distiller(teacher, taught, MethodLoss("st:1"), student_loss_weight=0.1)
labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
distiller.compile(keras.optimizers.SGD(0.05), labels, metrics=["sparse_categorical_accuracy"])
history = distiller.fit(loader(data, 500), epochs=2, shuffle=False, verbose=0)
