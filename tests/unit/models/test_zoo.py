"""The networks of the field's tables, layer by layer against their papers: what a parameter count
cannot tell.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli import catalog
from kdcli.core import random
from kdcli.core.network import Network
from kdcli.errors import Incompatible

relu = functional.relu
FAMILIES = (
    "wrn_16_1",
    "vgg8",
    "mobilenet_v1",
    "mobilenet_v2",
    "shufflenet_v1",
    "shufflenet_v2",
    "resnet18",
    "resnet50",
)


def build(name: str, shape: tuple[int, int, int] = (3, 16, 16)) -> Network:
    """In eval mode, with statistics that are not a new batch norm's."""
    found = catalog.entry("model", name)
    with random.seeded(0, "init"):
        network = catalog.load(found).build(
            name, num_classes=10, input_shape=shape, arguments=found.facts["arguments"]
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values, low, high in (
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 2),
                    (module.weight, 0.5, 2),
                ):
                    nn.init.uniform_(values, low, high)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


def pictures(*shape: int) -> Tensor:
    return 2 * random.uniform(5, torch.arange(torch.Size(shape).numel())).view(shape) - 1


def taps_of(network: Network) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(network(pictures(2, 3, 16, 16), tuple(network.taps)).taps)


# ---- pictures that they take ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (4, 18, 33)])
def test_other_sizes_and_channels_are_taken(name, shape):
    with torch.device("meta"):
        network = build(name, shape)
        output = network(torch.empty(2, *shape), tuple(network.taps))
    assert output.logits.shape == (2, 10)
    for tap, declared in network.taps.items():
        size = (
            ()
            if declared.stride is None
            else tuple(-(-side // declared.stride) for side in shape[1:])
        )
        assert output.taps[tap].shape == (2, declared.channels, *size), tap


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("wrn_40_2", 3),
        ("vgg13", 5),
        ("mobilenet_v2", 9),
        ("mobilenet_v1", 17),
        ("shufflenet_v1", 5),
        ("shufflenet_v2", 5),
        ("resnet50", 5),
    ],
)
def test_pictures_that_are_too_small_are_refused_in_a_sentence(name, least):
    with torch.device("meta"):
        build(name, (3, least, least))
        with pytest.raises(
            Incompatible,
            match=f"{name} halves its input . times: .* {least - 1}x{least} are too small",
        ) as caught:
            build(name, (3, least - 1, least))
    assert f"at least {least}x{least}" in caught.value.hint


def test_large_pictures_give_vgg_a_fourth_pool():
    with torch.device("meta"):
        assert [
            build("vgg13", (3, side, side)).taps["stage4"].stride for side in (32, 63, 64, 224)
        ] == [8, 8, 16, 16]


# ---- Wide ResNet ---------------------------------------------------------------------------------


def test_a_wide_stage_is_a_bare_sum_that_the_next_norm_reads():
    network = build("wrn_16_1")
    taps = taps_of(network)
    previous = taps["stem"]
    for number in (1, 2, 3):
        first, second, norm = network.trunk(f"stage{number}")[-1]
        # equal width: the norm and ReLU stand inside, the shortcut goes around them
        if number == 1:
            inner = relu(first.before[0](previous))
            total = first.conv2(relu(first.bn(first.conv1(inner)))) + previous
        else:
            total = first.conv2(relu(first.bn(first.conv1(previous)))) + first.shortcut(previous)
        total = total + second.conv2(relu(second.bn(second.conv1(relu(second.before[0](total))))))
        torch.testing.assert_close(taps[f"stage{number}.pre"], norm(total))
        assert network.norm_at(f"stage{number}.pre") is norm
        previous = taps[f"stage{number}"]
    torch.testing.assert_close(taps["pooled"], previous.mean((2, 3)))


def test_a_wide_net_has_norms_for_every_convolution_but_the_first():
    network = build("wrn_40_2")
    convs = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(convs) == 40 - 3  # the paper's 40 counts the three shortcuts' convolutions
    assert len(norms) == len(convs)  # one before each but the stem, and one before the pool
    assert not any(conv.bias is not None for conv in convs)
    assert network.head.bias.eq(0).all()


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg13"])
def test_statistics_before_an_activation_are_the_norms_where_nothing_is_added(name):
    """Overhaul distillation takes a channel's mean and deviation before its ReLU from this norm."""
    network = build(name).train()
    x = pictures(8, 3, 16, 16)
    stages = [tap for tap in network.taps if tap.endswith(".pre")]
    with torch.no_grad():
        taps = network(x, tuple(stages)).taps
    for tap in stages:
        norm = network.norm_at(tap)
        torch.testing.assert_close(taps[tap].mean((0, 2, 3)), norm.bias, rtol=0, atol=1e-4)
        torch.testing.assert_close(
            taps[tap].std((0, 2, 3), correction=0), norm.weight.abs(), rtol=1e-3, atol=1e-3
        )


# ---- VGG -----------------------------------------------------------------------------------------


def test_vgg_is_convolutions_and_pools():
    network = build("vgg13")
    taps = taps_of(network)
    x = pictures(2, 3, 16, 16)
    for number, tap in enumerate(("stem", "stage1", "stage2", "stage3", "stage4")):
        if number in (1, 2, 3):
            x = functional.max_pool2d(x, 2)
        modules = list(network.trunk(tap)[-1].modules())
        convs, norms = (
            [m for m in modules if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d)
        )
        assert len(convs) == len(norms) == 2
        for conv, norm in zip(convs, norms, strict=True):
            assert conv.bias is not None
            x = relu(norm(conv(x)))
        torch.testing.assert_close(taps[tap], x)
    torch.testing.assert_close(taps["pooled"], x.mean((2, 3)))


# ---- MobileNets ----------------------------------------------------------------------------------


def test_mobilenet_separates_depth_from_breadth():
    network = build("mobilenet_v1", (3, 32, 32))
    x = pictures(2, 3, 32, 32)
    with torch.no_grad():
        taps = network(x, tuple(network.taps)).taps
    x = taps["stem"]
    for number, widths in enumerate(([64, 128, 128], [256, 256], [512] * 6, [1024] * 2), 1):
        modules = list(network.trunk(f"stage{number}")[-1].modules())
        convs, norms = (
            [m for m in modules if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d)
        )
        assert [conv.out_channels for conv in convs[1::2]] == widths
        assert all(conv.groups == conv.in_channels == conv.out_channels for conv in convs[::2])
        for conv, norm in zip(convs, norms, strict=True):
            x = relu(norm(conv(x)))
        torch.testing.assert_close(taps[f"stage{number}"], x)
        assert network.norm_at(f"stage{number}.pre") is norms[-1]


def test_an_inverted_residual_adds_only_where_the_shape_stays():
    network = build("mobilenet_v2")
    taps = taps_of(network)
    for number, adds in (
        (1, [False, False, True]),
        (2, [False, True, True]),
        (3, [False, *[True] * 3, False, *[True] * 2]),
    ):
        x = taps["stem"] if number == 1 else taps[f"stage{number - 1}"]
        blocks = list(network.trunk(f"stage{number}")[-1])
        assert len(blocks) == len(adds)
        for block, add in zip(blocks, adds, strict=True):
            assert block.conv2.groups == block.conv2.in_channels == block.conv1.out_channels
            inner = block.bn3(
                block.conv3(relu(block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))))))
            )
            x = inner + x if add else inner
        torch.testing.assert_close(taps[f"stage{number}"], x)
        assert network.norm_at(f"stage{number}.pre") is blocks[-1].bn3


def test_half_width_expands_by_six_but_for_the_first_block():
    blocks = [
        module
        for module in build("mobilenet_v2").modules()
        if type(module).__name__ == "InvertedResidual"
    ]
    assert [(block.conv1.in_channels, block.conv1.out_channels) for block in blocks[:3]] == [
        (16, 16),
        (8, 48),
        (12, 72),
    ]
    assert [block.conv3.out_channels for block in blocks] == [
        8,
        12,
        12,
        *[16] * 3,
        *[32] * 4,
        *[48] * 3,
        *[80] * 3,
        160,
    ]


# ---- ShuffleNets ---------------------------------------------------------------------------------


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle as the paper draws it: write channels as rows of groups, read columns."""
    count = x.shape[1] // groups
    return torch.stack(
        [x[:, group * count + place] for place in range(count) for group in range(groups)], dim=1
    )


def test_a_unit_of_the_first_shufflenet():
    network = build("shufflenet_v1")
    taps = taps_of(network)
    for number, before in ((1, "stem"), (2, "stage1"), (3, "stage2")):
        x = taps[before]
        units = [
            module
            for module in network.trunk(f"stage{number}")[-1]
            if not isinstance(module, nn.ReLU)
        ]
        assert len(units) == (4, 8, 4)[number - 1]
        for place, unit in enumerate(units):
            groups = 1 if number == 1 and place == 0 else 3
            assert (unit.conv1.groups, unit.conv3.groups) == (groups, 3)
            inner = relu(unit.bn2(unit.conv2(shuffled(relu(unit.bn1(unit.conv1(x))), groups))))
            inner = unit.bn3(unit.conv3(inner))
            x = relu(
                inner + x if place else torch.cat([inner, functional.avg_pool2d(x, 3, 2, 1)], dim=1)
            )
        torch.testing.assert_close(taps[f"stage{number}"], x)
        assert network.norm_at(f"stage{number}.pre") is units[-1].bn3


def test_a_unit_of_the_second_shufflenet_leaves_half_of_the_channels_alone():
    network = build("shufflenet_v2")
    taps = taps_of(network)

    def through(branch: nn.Sequential, x: Tensor) -> Tensor:
        convs, norms = (
            [m for m in branch if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d)
        )
        for place, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            x = norm(conv(x))
            x = x if place == len(convs) - 2 else relu(x)  # none after the depthwise convolution
        return x

    for number, before in ((1, "stem"), (2, "stage1"), (3, "stage2")):
        x = taps[before]
        down, *units = (
            module
            for module in network.trunk(f"stage{number}")[-1]
            if not isinstance(module, nn.ReLU)
        )
        assert len(units) == (3, 7, 3)[number - 1]
        x = shuffled(torch.cat([through(down.left, x), through(down.right, x)], dim=1), 2)
        for unit in units:
            half = x.shape[1] // 2
            x = shuffled(torch.cat([x[:, :half], through(unit.branch, x[:, half:])], dim=1), 2)
        torch.testing.assert_close(taps[f"stage{number}"], x)
        assert network.norm_at(f"stage{number}.pre") is None


# ---- ResNet with bottlenecks ---------------------------------------------------------------------


def test_a_bottleneck_is_the_textbooks():
    network = build("resnet50")
    taps = taps_of(network)
    x = taps["stage1"]
    blocks = [module for module in network.trunk("stage2")[-1] if not isinstance(module, nn.ReLU)]
    for block in blocks:
        assert block.conv2.in_channels == 128
        inner = relu(block.bn2(block.conv2(relu(block.bn1(block.conv1(x))))))
        x = relu(block.bn3(block.conv3(inner)) + block.shortcut(x))
    assert len(blocks) == 4
    torch.testing.assert_close(taps["stage2"], x)
    assert network.norm_at("stage2.pre") is blocks[-1].bn3
    assert blocks[0].conv2.stride == (2, 2)  # as torchvision has it, not the 1x1 before


# ---- fresh weights -------------------------------------------------------------------------------


def test_heads_start_as_repdistillers():
    for name in ("vgg8", "mobilenet_v2"):
        with random.seeded(1, "init"):
            found = catalog.entry("model", name)
            head = (
                catalog.load(found)
                .build(
                    name,
                    num_classes=100,
                    input_shape=(3, 32, 32),
                    arguments=found.facts["arguments"],
                )
                .head
            )
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert head.bias.eq(0).all()


@pytest.mark.parametrize("name", ["wrn_40_2", "vgg8", "mobilenet_v2", "resnet18"])
def test_convolutions_start_he_normal_over_the_fan_out(name):
    with random.seeded(1, "init"):
        found = catalog.entry("model", name)
        network = catalog.load(found).build(
            name, num_classes=10, input_shape=(3, 32, 32), arguments=found.facts["arguments"]
        )
    convs = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000
    ]
    assert convs
    for conv in convs:
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert conv.bias is None or conv.bias.eq(0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_forward_is_one_graph(name):
    network = build(name, (3, 18, 18))
    x = pictures(2, 3, 18, 18)
    taps = ("stem", "stage1", "stage2.pre", "pooled")
    compiled = torch.compile(network, backend="eager", fullgraph=True)(x, taps)
    expected = network(x, taps)
    torch.testing.assert_close(compiled.logits, expected.logits)
    assert compiled.taps.keys() == expected.taps.keys()
