"""Parameter counts, against the published ones: of RepDistiller's code, and of Table 7 of paper
001.
"""

from __future__ import annotations

import pytest
import torch

from kdcli import catalog
from kdcli.core.network import Network, parameter_count
from kdcli.models import cost
from kdcli.models.cost import macs

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def build(name: str, shape: tuple[int, int, int], classes: int = 10, **options) -> Network:
    found = catalog.entry("model", name)
    with torch.device("meta"):
        return catalog.load(found).build(
            name,
            num_classes=classes,
            input_shape=shape,
            arguments={**found.facts["arguments"], **options},
        )


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
        ("wrn_16_1", 180_916, 175_066),
        ("wrn_16_2", 703_284, 691_674),
        ("wrn_40_1", 569_780, 563_930),
        ("wrn_40_2", 2_255_156, 2_243_546),
        ("vgg8", 3_965_028, 3_918_858),
        ("vgg11", 9_277_284, 9_231_114),
        ("vgg13", 9_462_180, 9_416_010),
        ("vgg16", 14_774_436, 14_728_266),
        ("vgg19", 20_086_692, 20_040_522),
        ("mobilenet_v2", 812_836, 697_546),
        ("shufflenet_v1", 949_258, 862_768),
        ("shufflenet_v2", 1_355_528, 1_263_278),
        ("resnet18", 11_220_132, 11_173_962),
        ("resnet34", 21_328_292, 21_282_122),
        ("resnet50", 23_705_252, 23_520_842),
    ],
)
def test_networks_for_cifar_are_repdistillers(name, hundred_classes, ten_classes):
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
        ("cnn-medium", DIGITS, 107_562),
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


def test_the_transformer_for_cifar_is_vit_lite():
    assert parameter_count(build("vit-lite", CIFAR)) == 3_716_874  # the paper says 3.72 million
    assert parameter_count(build("vit-mini", CIFAR)) == 141_258  # kd's own


def test_mobilenet_is_the_papers():
    network = build("mobilenet_v1", (3, 224, 224), 1000)
    assert parameter_count(network) == 4_231_976  # mdistiller's; the paper says 4.2 million
    assert macs(network, (3, 224, 224)) == 568_740_352  # 569 million
    stages = [network.taps[f"stage{number}"] for number in range(1, 5)]
    assert [(tap.channels, tap.stride) for tap in stages] == [
        (128, 4),
        (256, 8),
        (512, 16),
        (1024, 32),
    ]


RESNET, WRN, VGG, BIG = (32, 32, 16, 8), (32, 32, 16, 8), (32, 16, 8, 4, 4), (32, 32, 16, 8, 4)


@pytest.mark.parametrize(
    ("name", "channels", "sizes"),
    [
        ("resnet20", (16, 16, 32, 64, 64), RESNET),
        ("resnet32x4", (32, 64, 128, 256, 256), RESNET),
        ("wrn_16_1", (16, 16, 32, 64, 64), WRN),
        ("wrn_16_2", (16, 32, 64, 128, 128), WRN),
        ("wrn_40_1", (16, 16, 32, 64, 64), WRN),
        ("wrn_40_2", (16, 32, 64, 128, 128), WRN),
        *(
            (name, (64, 128, 256, 512, 512, 512), VGG)
            for name in ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")
        ),
        ("mobilenet_v2", (16, 12, 16, 48, 160, 1280), (16, 16, 8, 4, 2)),
        ("shufflenet_v1", (24, 240, 480, 960, 960), (32, 16, 8, 4)),
        ("shufflenet_v2", (24, 116, 232, 464, 1024), (32, 16, 8, 4)),
        ("resnet18", (64, 64, 128, 256, 512, 512), BIG),
        ("resnet34", (64, 64, 128, 256, 512, 512), BIG),
        ("resnet50", (64, 256, 512, 1024, 2048, 2048), BIG),
    ],
)
def test_maps_of_a_picture_are_as_wide_and_high_as_repdistillers(name, channels, sizes):
    network = build(name, CIFAR)
    taps = ["stem", *(f"stage{number}" for number in range(1, len(sizes))), "pooled"]
    assert [tap for tap in network.taps if not tap.endswith(".pre")] == taps
    with torch.device("meta"):
        found = network(torch.empty(1, *CIFAR), tuple(taps)).taps
    shapes = [(1, count, size, size) for count, size in zip(channels, sizes, strict=False)]
    assert [tuple(found[tap].shape) for tap in taps] == [*shapes, (1, channels[-1])]


def test_an_assistant_for_digits_lies_between_teacher_and_student():
    sizes = [
        parameter_count(build(name, DIGITS)) for name in ("cnn-small", "cnn-medium", "cnn-large")
    ]
    assert sizes[1] / sizes[0] > 5
    assert sizes[2] / sizes[1] > 5
    assert (
        build("cnn-small", DIGITS).taps.keys()
        == build("cnn-medium", DIGITS).taps.keys()
        == build("cnn-large", DIGITS).taps.keys()
    )


def test_the_cifar_resnets_take_digits_and_grey_pictures():
    for shape in (DIGITS, MNIST):
        assert parameter_count(build("resnet20", shape)) == 272_474 - 2 * 9 * 16


def test_macs_of_one_image():
    assert macs(build("linear", MNIST), MNIST) == 7840
    student = 14 * 14 * 9 * 16 + 7 * 7 * 9 * 16 * 32 + 1568 * 10
    assert macs(build("mnist-student", MNIST), MNIST) == student
    # torchvision says 1.81 G
    assert macs(build("torchvision/resnet18", (3, 224, 224), 1000), (3, 224, 224)) == 1_814_073_344


def test_counting_leaves_a_network_as_it_was():
    found = catalog.entry("model", "cnn-small")
    network = catalog.load(found).build(
        "cnn-small", num_classes=10, input_shape=DIGITS, arguments=found.facts["arguments"]
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert macs(network, DIGITS) > 0
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_operations_are_counted_as_torch_counts_them():
    from torch.utils.flop_counter import flop_registry

    x, w = torch.randn(2, 6, 9, 7), torch.randn(8, 3, 3, 2)
    grouped = (x, w, None, [2, 1], [1, 0], [1, 2], False, [0, 0], 2)
    transposed = (x, torch.randn(6, 2, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 2)
    a, b = torch.randn(4, 5, 3), torch.randn(4, 3, 6)
    calls = [
        (torch.ops.aten.convolution, grouped),
        (torch.ops.aten.convolution, transposed),
        (torch.ops.aten.mm, (a[0], b[0])),
        (torch.ops.aten.addmm, (torch.randn(6), a[0], b[0])),
        (torch.ops.aten.bmm, (a, b)),
        (torch.ops.aten.baddbmm, (torch.randn(4, 5, 6), a, b)),
    ]
    for function, given in calls:
        out = function(*given)
        theirs = flop_registry[function](*given, out_val=out)
        assert cost._operations(function, given, {}, out) == theirs
    assert cost._operations(torch.ops.aten.relu, (a,), {}, a) is None
