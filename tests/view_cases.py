"""Pipelines that a function of the user's returns, in a module of theirs."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from kdcache.batches import Loader, identity

CODE = '''
import random
import numpy as np
import torch
from torch import nn
from torchvision import transforms as classic
from torchvision.transforms import v2

PARTS = [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.RandomApply([v2.ColorJitter(.4, .4, .4, .2)], .7),
         v2.RandomErasing(1)]
FLOAT = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([.5] * 3, [.5] * 3)]
SHIFT = 0

def make():
    return v2.Compose(PARTS)

def with_tail():
    return v2.Compose([v2.ToImage(), *PARTS, v2.Compose(FLOAT), v2.ToPureTensor()])

def classical():
    return classic.Compose([classic.RandomCrop(32, 4), classic.RandomHorizontalFlip(), classic.ToTensor(),
                            classic.Normalize([.5] * 3, [.5] * 3)])

def pictured():
    """What takes PIL images alone."""
    return classic.Compose([lambda image: image.rotate(90), classic.RandomCrop(32, 4), classic.ToTensor()])

def resized():
    return nn.Sequential(v2.RandomResizedCrop((24, 20), antialias=True), v2.RandomHorizontalFlip())

def noise(draw):
    def add(image):
        image += (torch.as_tensor(draw()) * 255).to(torch.uint8)  # in place: the source must not notice
        return image
    return lambda: add

python, numpy, torchs = noise(random.random), noise(np.random.rand), noise(lambda: torch.rand(()))

def alone():
    return v2.Compose([v2.RandomCrop(32), noise(np.random.default_rng(0).random)()])

def drawn():
    print("made by a person")
    return v2.RandomCrop(random.choice([20, 21, 22, 23, 24, 25, 26, 27]))

def changeable():
    return v2.Compose([v2.RandomCrop(32), v2.RandomRotation([SHIFT, 90])])

def hidden():
    return v2.Compose([v2.RandomCrop(32), v2.Lambda(lambda image: image + SHIFT)])

def threads():
    return lambda image: image[:, :8, :8].fill_(torch.get_num_threads())

def early_float(): return v2.Compose([*FLOAT, v2.RandomErasing()])
def grey(): return v2.Grayscale()
def several(): return v2.RandomResize(20, 40)
def large(): return v2.RandomCrop(64)
def number(): return 3
def needs(it): return it
def fails(): raise RuntimeError("first line\\nsecond line")
'''

AUGMENTOR = '''
import random
import numpy as np
from PIL import Image, ImageOps

class Operation:
    def __init__(self, probability, **settings):
        self.probability = probability
        self.__dict__.update(settings)

class Rotate(Operation):
    def perform_operation(self, images):
        return [image.rotate(random.uniform(-self.most, self.most)) for image in images]

class Brightness(Operation):
    def perform_operation(self, images):
        return [Image.eval(image, lambda level: int(level * np.random.uniform(0.5, 1))) for image in images]

class Greyscale(Operation):
    def perform_operation(self, images):
        return [ImageOps.grayscale(image) for image in images]

class Pipeline:
    """As Augmentor's, as far as we call it."""
    def __init__(self):
        self.operations = [Rotate(0.7, most=20), Brightness(0.5), Greyscale(0.2)]

    def torch_transform(self):
        def transform(image):
            for operation in self.operations:
                if random.uniform(0, 1) < operation.probability:
                    image = operation.perform_operation([image])[0]
            return image
        return transform

def real():
    import Augmentor
    pipeline = Augmentor.Pipeline()
    pipeline.rotate(0.7, 10, 10)
    pipeline.random_color(0.5, 0.3, 0.9)
    pipeline.gaussian_distortion(0.3, 4, 4, 3, "bell", "in")
    pipeline.greyscale(0.2)
    return pipeline
'''


def written(folder: Path) -> str:
    """The name of a fresh module in a folder; with _augmentor behind it, that of another."""
    name = f"views_{hashlib.md5(str(folder).encode()).hexdigest()}"
    (folder / f"{name}.py").write_text(CODE)
    (folder / f"{name}_augmentor.py").write_text(AUGMENTOR)
    return name


def spec_of(code: str, factory: str) -> str:
    library, _, name = factory.rpartition(":")
    return f"augmentor:{code}_augmentor:{name}" if library else f"torchvision:{code}:{name}"


def assert_workers_render_the_same(here: Loader, method: str, items: int = 360) -> None:
    """Two workers, started by this method, give the images that this process gives."""
    order = np.random.default_rng(0).permutation(items).tolist()
    loader = DataLoader(
        here.rendered, 50, sampler=order, num_workers=2, collate_fn=identity, multiprocessing_context=method
    )
    for numbers, images, _ in loader:
        assert torch.equal(images, here.images(numbers))
