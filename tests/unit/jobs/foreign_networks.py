"""Networks with the layout of names that RepDistiller and mdistiller save: as plain as they can be,
with K classes, random weights and random running statistics.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d, relu

K = 7


def conv(ins, outs, size=3, stride=1, groups=1, bias=False):
    return nn.Conv2d(ins, outs, size, stride, size // 2, groups=groups, bias=bias)


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def flat(x):
    return adaptive_avg_pool2d(x, 1).flatten(1)


class Basic(nn.Module):
    def __init__(self, ins, outs, stride, path):
        super().__init__()
        self.conv1, self.bn1 = conv(ins, outs, 3, stride), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = conv(outs, outs), nn.BatchNorm2d(outs)
        self.path = path
        if stride != 1 or ins != outs:
            setattr(self, path, nn.Sequential(conv(ins, outs, 1, stride), nn.BatchNorm2d(outs)))

    def forward(self, x):
        side = getattr(self, self.path, nn.Identity())(x)
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + side)


class Wide(nn.Module):
    """A bottleneck: 1x1, 3x3, 1x1."""

    def __init__(self, ins, outs, stride, path):
        super().__init__()
        mid = outs // 4
        self.conv1, self.bn1 = conv(ins, mid, 1), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = conv(mid, mid, 3, stride), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = conv(mid, outs, 1), nn.BatchNorm2d(outs)
        self.path = path
        if stride != 1 or ins != outs:
            setattr(self, path, nn.Sequential(conv(ins, outs, 1, stride), nn.BatchNorm2d(outs)))

    def forward(self, x):
        side = getattr(self, self.path, nn.Identity())(x)
        inner = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(self.bn3(self.conv3(inner)) + side)


class ResNet(nn.Module):
    """Of three stages (a `downsample` and an `fc`) or four (a `shortcut` and a `linear`)."""

    def __init__(self, stem, widths, counts, block=Basic, *, names=("downsample", "fc")):
        super().__init__()
        self.conv1, self.bn1 = conv(3, stem), nn.BatchNorm2d(stem)
        self.head, ins = names[1], stem
        for number, (width, count) in enumerate(zip(widths, counts, strict=True), 1):
            rows = []
            for place in range(count):
                stride = 2 if number > 1 and place == 0 else 1
                rows.append(block(ins, width, stride, names[0]))
                ins = width
            setattr(self, f"layer{number}", nn.Sequential(*rows))
        self.stages = len(widths)
        setattr(self, names[1], nn.Linear(ins, K))

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return getattr(self, self.head)(flat(x))


class WrnBlock(nn.Module):
    def __init__(self, ins, outs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(ins), conv(ins, outs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outs), conv(outs, outs)
        self.convShortcut = None if ins == outs else conv(ins, outs, 1, stride)

    def forward(self, x):
        active = relu(self.bn1(x))
        inner = self.conv2(relu(self.bn2(self.conv1(active))))
        return inner + (x if self.convShortcut is None else self.convShortcut(active))


class Wrn(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        count, ins = (depth - 4) // 6, 16
        self.conv1 = conv(3, 16)
        for number, base in enumerate((16, 32, 64), 1):
            rows = []
            for place in range(count):
                rows.append(WrnBlock(ins, base * width, 2 if number > 1 and place == 0 else 1))
                ins = base * width
            block = nn.Module()
            block.layer = nn.Sequential(*rows)
            setattr(self, f"block{number}", block)
        self.bn1, self.fc = nn.BatchNorm2d(ins), nn.Linear(ins, K)

    def forward(self, x):
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(flat(relu(self.bn1(x))))


class Vgg(nn.Module):
    def __init__(self, counts):
        super().__init__()
        ins = 3
        for number, (width, count) in enumerate(zip((64, 128, 256, 512, 512), counts, strict=True)):
            rows = []
            for _ in range(count):
                rows += [conv(ins, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                ins = width
            setattr(self, f"block{number}", nn.Sequential(*rows[:-1]))
        self.classifier = nn.Linear(512, K)

    def forward(self, x):
        large = x.shape[2] >= 64
        for number in range(5):
            x = relu(getattr(self, f"block{number}")(x))
            if number < 3 or (number == 3 and large):
                x = max_pool2d(x, 2)
        return self.classifier(flat(x))


class Inverted(nn.Module):
    def __init__(self, ins, outs, stride, times):
        super().__init__()
        mid = ins * times
        self.adds = stride == 1 and ins == outs
        rows = [conv(ins, mid, 1), nn.BatchNorm2d(mid), nn.ReLU()]
        rows += [conv(mid, mid, 3, stride, mid), nn.BatchNorm2d(mid), nn.ReLU()]
        self.conv = nn.Sequential(*rows, conv(mid, outs, 1), nn.BatchNorm2d(outs))

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        blocks, ins = [], 16
        for times, width, count, stride in (
            (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2),
            (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            rows = []
            for place in range(count):
                rows.append(Inverted(ins, width // 2, 1 if place else stride, times))
                ins = width // 2
            blocks.append(nn.Sequential(*rows))
        self.blocks = nn.ModuleList(blocks)
        self.conv2 = nn.Sequential(conv(ins, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, K))

    def forward(self, x):
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(flat(self.conv2(x)))


class ShuffleUnit(nn.Module):
    def __init__(self, ins, outs, stride):
        super().__init__()
        mid, self.groups, self.stride = outs // 4, 1 if ins == 24 else 3, stride
        self.conv1, self.bn1 = conv(ins, mid, 1, groups=self.groups), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = conv(mid, mid, 3, stride, mid), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = conv(mid, outs, 1, groups=3), nn.BatchNorm2d(outs)

    def forward(self, x):
        inner = shuffled(relu(self.bn1(self.conv1(x))), self.groups)
        inner = self.bn3(self.conv3(relu(self.bn2(self.conv2(inner)))))
        if self.stride == 1:
            return relu(inner + x)
        return relu(torch.cat([inner, avg_pool2d(x, 3, 2, 1)], 1))


class Shuffle1(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, ins = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for number, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            first = ShuffleUnit(ins, width - ins, 2)
            rows = [first, *(ShuffleUnit(width, width, 1) for _ in range(count - 1))]
            setattr(self, f"layer{number}", nn.Sequential(*rows))
            ins = width
        self.linear = nn.Linear(960, K)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        return self.linear(flat(self.layer3(self.layer2(self.layer1(x)))))


class Half(nn.Module):
    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = conv(half, half, 1), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv(half, half, groups=half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x):
        kept, other = x.chunk(2, 1)
        other = self.bn2(self.conv2(relu(self.bn1(self.conv1(other)))))
        return shuffled(torch.cat([kept, relu(self.bn3(self.conv3(other)))], 1), 2)


class Both(nn.Module):
    def __init__(self, ins, outs):
        super().__init__()
        half = outs // 2
        self.conv1, self.bn1 = conv(ins, ins, 3, 2, ins), nn.BatchNorm2d(ins)
        self.conv2, self.bn2 = conv(ins, half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv(ins, half, 1), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv(half, half, 3, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, x):
        left = relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(relu(self.bn3(self.conv3(x)))))
        return shuffled(torch.cat([left, relu(self.bn5(self.conv5(right)))], 1), 2)


class Shuffle2(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, ins = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for number, (width, count) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            rows = [Both(ins, width), *(Half(width) for _ in range(count))]
            setattr(self, f"layer{number}", nn.Sequential(*rows))
            ins = width
        self.conv2, self.bn2 = conv(464, 1024, 1), nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, K)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(flat(relu(self.bn2(self.conv2(x)))))


FOUR = ("shortcut", "linear")
LAYOUTS = {
    "resnet8": lambda: ResNet(16, (16, 32, 64), (1, 1, 1)),
    "resnet20": lambda: ResNet(16, (16, 32, 64), (3, 3, 3)),
    "resnet56": lambda: ResNet(16, (16, 32, 64), (9, 9, 9)),
    "resnet8x4": lambda: ResNet(32, (64, 128, 256), (1, 1, 1)),
    "resnet32x4": lambda: ResNet(32, (64, 128, 256), (5, 5, 5)),
    "resnet18": lambda: ResNet(64, (64, 128, 256, 512), (2, 2, 2, 2), names=FOUR),
    "resnet50": lambda: ResNet(64, (256, 512, 1024, 2048), (3, 4, 6, 3), Wide, names=FOUR),
    "wrn_16_1": lambda: Wrn(16, 1),
    "wrn_40_2": lambda: Wrn(40, 2),
    "vgg8": lambda: Vgg((1, 1, 1, 1, 1)),
    "vgg13": lambda: Vgg((2, 2, 2, 2, 2)),
    "mobilenet_v2": Mobile,
    "shufflenet_v1": Shuffle1,
    "shufflenet_v2": Shuffle2,
}


def lively(network: nn.Module) -> nn.Module:
    """Random norms too: fresh ones would hide that two of them were exchanged."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return network.eval()
