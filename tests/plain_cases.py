"""A network without batch norm or dropout: what it learns from a batch does not depend on how this is cut up."""

from torch import nn

from kdcache.models.blocks import activations

PLAIN = f"{__name__}:Plain"


class Plain(nn.Module):
    """Three convolutions, with the taps of resnet8 in fewer channels."""

    def __init__(self, classes):
        super().__init__()
        for number, (inputs, outputs) in enumerate(((3, 16), (16, 32), (32, 64)), 1):
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, 3, 1 if number == 1 else 2, 1))
            self.add_module(f"relu{number}", nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        self.taps = activations({"f0": "relu1", **{f"f{number}": f"relu{number}" for number in (1, 2, 3)}})

    def forward(self, x):
        for number in (1, 2, 3):
            x = getattr(self, f"relu{number}")(getattr(self, f"conv{number}")(x))
        return self.fc(self.avgpool(x).flatten(1))
