"""A student of stored answers, with the Trainer of transformers."""

from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

import kdcache
from kdcache.adapters.transformers import trainer_arguments

set_seed(0)
shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
student = ResNetForImageClassification(ResNetConfig(**shape, num_labels=10))
settings = TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=500, save_strategy="no")

images = kdcache.CachedDataset("logits.h5").numbered()
knowledge_loss = kdcache.KnowledgeLoss(images, "st", student)

trainer = Trainer(student, settings, **trainer_arguments(knowledge_loss))
trainer.train()
found = trainer.evaluate()
