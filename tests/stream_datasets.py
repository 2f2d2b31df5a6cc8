# stream_datasets.py
"""What the teacher saw and said of the images in parquet files, read as a stream."""

from functools import partial

import datasets
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import kdcache

cache = kdcache.open_cache("logits.h5")


def shown(number, samples):
    """A batch of pass `number`: images, labels, item numbers."""
    files = [sample["image"]["bytes"] for sample in samples]
    rows = cache.rows_of([kdcache.digest(file) for file in files])
    views = cache.view_at(rows, number)
    images = [cache.render(*which) for which in zip(rows, views, files, strict=True)]
    return images, [sample["label"] for sample in samples], views * len(cache) + rows


def batches(files, number, workers=2):
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    stream = stream.cast_column("image", datasets.Image(decode=False)).shuffle(seed=number, buffer_size=1000)
    return DataLoader(stream, 16, collate_fn=partial(shown, number), num_workers=workers)


if __name__ == "__main__":
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, len(cache.classes)))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for number in range(2):
        for images, labels, items in batches("parquet/*.parquet", number):
            answers = cache.gather(items)["logits"].softmax(1)  # in the main process
            logits = student(torch.stack(images) / 255)
            loss = F.cross_entropy(logits, torch.tensor(labels)) + F.cross_entropy(logits, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
