"""Feature maps that are computed again in the backward pass: nothing that comes out differs, and fewer are kept."""

import pytest
import torch
from torch import nn
from train_cases import Fixture, assert_same_weights, measured

from kdcache.bench.methods import kept_bytes
from kdcache.errors import UsageError
from kdcache.models import build
from kdcache.models.network import watch
from kdcache.models.recompute import recomputed
from kdcache.train import Settings

MODELS = [
    "resnet8",
    "wrn-10-1",
    "wrn-16-1",
    "vgg8",
    "timm:vit_tiny_patch16_224:img_size=32,depth=3,embed_dim=48,num_heads=3,drop_rate=0.1,proj_drop_rate=0.2",
    "timm:resnet10t",
]
MORE = [
    "mobilenetv1", "mobilenetv2", "shufflenetv1", "shufflenetv2", "densenet121", "googlenet", "resnet50",
    "timm:convnext_atto", "timm:mobilenetv3_small_050", "timm:regnetx_002", "torchvision:efficientnet_b0",
]  # fmt: skip


def learnt(model, again):
    """Taps, gradients and statistics of one step."""
    network, generator = build(model, 4, (0.5,) * 3, (0.25,) * 3, seed=1), torch.Generator().manual_seed(2)
    network = network.train()
    images = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    torch.manual_seed(3)
    with watch(network, network.taps) as look:
        if again:
            with recomputed(network):
                seen = look(images)
                loss = sum(value.float().square().mean() for value in seen.values())
                loss.backward()
        else:
            seen = look(images)
            loss = sum(value.float().square().mean() for value in seen.values())
            loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {**seen, **{f"gradient {n}": g for n, g in gradients.items() if g is not None}, **network.state_dict()}


@pytest.mark.filterwarnings("ignore")  # of libraries
@pytest.mark.parametrize("model", [*MODELS, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)])
def test_taps_gradients_and_statistics_are_the_same(model):
    """Those of dropout, too: the same numbers are dropped again."""
    plain, again = learnt(model, False), learnt(model, True)
    assert plain.keys() == again.keys()
    assert [name for name in plain if not torch.equal(plain[name], again[name])] == []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("small"), "resnet8", ["st", "at", "kdsvd", "vid"])


@pytest.mark.parametrize(
    ("text", "settings"), [("st+at", {"accumulate": 2}), ("kdsvd", {"channels_last": True}), ("vid", {"dtype": "bf16"})]
)
def test_a_training_ends_in_the_same_weights(small, text, settings):
    [again], said = small.student(text, grad_checkpoint=True, **settings).train()
    [plain], told = small.student(text, **settings).train()
    assert measured(said) == measured(told)
    assert_same_weights(again, plain)
    assert not any("forward" in vars(module) for module in again.modules())


def test_a_deep_network_keeps_a_small_part():
    network = build("resnet32", 4, (0.5,) * 3, (0.25,) * 3).train()
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    plain = kept_bytes(lambda: network(images))
    with recomputed(network):
        assert kept_bytes(lambda: network(images)) < plain / 3


def test_it_is_refused_where_it_means_nothing(small):
    with pytest.raises(UsageError, match="tiny-3: expected a network of blocks, found single layers"):
        small.student("st", "tiny-3", grad_checkpoint=True).train()
    with pytest.raises(UsageError, match="`compile` beside it"):
        Settings(compile=True, grad_checkpoint=True)
    assert "grad_checkpoint" not in Settings().to_json()


def test_a_frozen_network_is_left_as_it_is():
    """In evaluation, or without gradients, a block runs once."""
    network, calls = build("resnet8", 4, (0.5,) * 3, (0.25,) * 3), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: calls.append(1))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with recomputed(network):
        network.eval()(images).sum().backward()
    once, calls[:] = len(calls), []
    with recomputed(network):
        network.train()(images).sum().backward()
    assert len(calls) > once
