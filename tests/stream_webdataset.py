# stream_webdataset.py
"""What the teacher saw and said of the images in tar shards, wherever they lie in them."""

from functools import partial

import torch
import torch.nn.functional as F
import webdataset as wds

import kdcache

cache = kdcache.open_cache("logits.h5")


def shown(number, samples):
    """A batch of pass `number`: images, labels, item numbers."""
    files = [sample["png"] for sample in samples]
    rows = cache.rows_of([kdcache.digest(file) for file in files])
    views = cache.view_at(rows, number)
    images = [cache.render(*which) for which in zip(rows, views, files, strict=True)]
    return images, [int(sample["cls"]) for sample in samples], views * len(cache) + rows


def batches(shards, number, workers=2):
    stream = wds.WebDataset(shards, shardshuffle=100, seed=number)
    stream = stream.shuffle(1000, seed=number).batched(16, collation_fn=partial(shown, number))
    return wds.WebLoader(stream, batch_size=None, num_workers=workers)


if __name__ == "__main__":
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, len(cache.classes)))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for number in range(2):
        for images, labels, items in batches("shards/train-{0..3}.tar", number):
            answers = cache.gather(items)["logits"].softmax(1)  # in the main process
            logits = student(torch.stack(images) / 255)
            loss = F.cross_entropy(logits, torch.tensor(labels)) + F.cross_entropy(logits, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
