"""Parameter counts, against the published ones: of RepDistiller's code, and of Table 7 of paper 001."""

from __future__ import annotations

import pytest
import torch

from kdcli import catalog
from kdcli.core.network import Network
from kdcli.models.cost import macs, parameter_count

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def build(name: str, shape: tuple[int, int, int], classes: int = 10, **options) -> Network:
    found = catalog.entry("model", name)
    with torch.device("meta"):
        return catalog.load(found).build(name, num_classes=classes, input_shape=shape, arguments={**found.facts["arguments"], **options})


@pytest.mark.parametrize(
    ("name", "hundred_classes", "ten_classes"),
    [
        ("resnet8", 83_892, 78_042),
        ("resnet14", 181_108, 175_258),
        ("resnet20", 278_324, 272_474),
        ("resnet32", 472_756, 466_906),
        ("resnet44", 667_188, 661_338),
        ("resnet56", 861_620, 855_770),
        ("resnet110", 1_736_564, 1_730_714),
        ("resnet8x4", 1_233_540, 1_210_410),
        ("resnet32x4", 7_433_860, 7_410_730),
    ],
)
def test_cifar_resnets_are_repdistillers(name, hundred_classes, ten_classes):
    assert parameter_count(build(name, CIFAR, 100)) == hundred_classes
    assert parameter_count(build(name, CIFAR, 10)) == ten_classes


@pytest.mark.parametrize(
    ("name", "shape", "total"),
    [
        ("mnist-large", MNIST, 2_560_906),
        ("mnist-small", MNIST, 1_433_610),
        ("mnist-student", MNIST, 20_490),
        ("fashion-mnist-large", MNIST, 2_339_850),
        ("fashion-mnist-small", MNIST, 1_558_538),
        ("fashion-mnist-student", MNIST, 50_186),
        ("cifar10-small", CIFAR, 5_674_634),
        ("cifar10-student", CIFAR, 534_666),
        ("linear", MNIST, 7_850),
        ("linear", CIFAR, 30_730),
        ("cifar10-large", CIFAR, 23_576_906),  # the stand-in's own, not the table's
        ("cnn-small", DIGITS, 20_498),
        ("cnn-large", DIGITS, 637_994),
    ],
)
def test_totals_of_table_7(name, shape, total):
    assert parameter_count(build(name, shape)) == total


@pytest.mark.parametrize(
    ("name", "total"),
    [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("mobilenet_v2", 3_504_872)],
)
def test_torchvisions_nets_are_unchanged(name, total):
    assert parameter_count(build(f"torchvision/{name}", (3, 64, 64), 1000)) == total


def test_tap_channels_of_the_cifar_resnets():
    for name, channels in (("resnet20", [16, 16, 32, 64, 64]), ("resnet32x4", [32, 64, 128, 256, 256])):
        taps = build(name, CIFAR).taps
        assert [taps[tap].channels for tap in ("stem", "stage1", "stage2", "stage3", "pooled")] == channels
        assert [taps[tap].stride for tap in ("stem", "stage1", "stage2", "stage3", "pooled")] == [1, 1, 2, 4, None]


def test_the_cifar_resnets_take_digits_and_grey_pictures():
    for shape in (DIGITS, MNIST):
        assert parameter_count(build("resnet20", shape)) == 272_474 - 2 * 9 * 16


def test_macs_of_one_image():
    assert macs(build("linear", MNIST), MNIST) == 7840
    student = 14 * 14 * 9 * 16 + 7 * 7 * 9 * 16 * 32 + 1568 * 10
    assert macs(build("mnist-student", MNIST), MNIST) == student
    assert macs(build("torchvision/resnet18", (3, 224, 224), 1000), (3, 224, 224)) == 1_814_073_344  # torchvision says 1.81 G


def test_counting_leaves_a_network_as_it_was():
    found = catalog.entry("model", "cnn-small")
    network = catalog.load(found).build("cnn-small", num_classes=10, input_shape=DIGITS, arguments=found.facts["arguments"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert macs(network, DIGITS) > 0
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
