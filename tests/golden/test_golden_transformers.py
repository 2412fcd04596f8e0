"""Vision transformers against timm's, and the methods that need them against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli import losses
from kdcli.core.network import Network
from kdcli.core.types import Batch, Output, Progress, Tap
from kdcli.engine.checkpoint import load_weights, save_model
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs import build_network
from kdcli.modules.logit_exit import ConvolutionExit, TokenExit
from kdcli.modules.token_heads import TokenHeads
from kdcli.results.weights_header import CheckpointHeader
from tests.catalogue.conftest import SHAPE, tiny, tiny_transformer
from tests.golden.test_golden_feature import checked, close, noise
from tests.unit.methods.test_feature_methods import make

AT = Progress("distill", epoch=1, epochs=2, step=0, steps=4)


def pictures(count: int = 3) -> Batch:
    x = noise(0, count, *SHAPE).float()
    index = torch.arange(count)
    return Batch(x, index % 5, index, torch.zeros(count, dtype=torch.int64))


# ---- the network ---------------------------------------------------------------------------------


def as_timm(ours: Network) -> dict[str, Tensor]:
    """The state of vit-mini by timm's names, the two heads apart where there are two."""
    words = (
        ("tokens.patches", "patch_embed.proj"),
        ("tokens.class_token", "cls_token"),
        ("tokens.distillation_token", "dist_token"),
        ("tokens.position", "pos_embed"),
        ("body.", "blocks."),
        ("attention.all_three", "attn.qkv"),
        ("attention.out", "attn.proj"),
        ("perceptron.0", "mlp.fc1"),
        ("perceptron.2", "mlp.fc2"),
    )
    state = {}
    for key, tensor in ours.state_dict().items():
        name = key
        for own, theirs in words:
            name = name.replace(own, theirs)
        state[name] = tensor
    if ours.distilled is not None:
        first, second = state["head.weight"].split(ours.distilled, 1)
        state |= {"head.weight": 2 * first, "head_dist.weight": 2 * second}
        state["head_dist.bias"] = state["head.bias"]
    return state


@pytest.mark.parametrize("two", [False, True])
def test_the_small_transformer_is_timms_with_the_same_weights(two):
    timm = pytest.importorskip("timm")
    ours = build_network(
        "vit-mini",
        num_classes=7,
        input_shape=(3, 8, 12),
        options={"depth": 3, "width": 12, "heads": 3, "patch": 2, "distillation_token": two},
    )
    ours = ours.double().eval()
    theirs = timm.create_model(
        "deit_tiny_distilled_patch16_224" if two else "vit_tiny_patch16_224",
        num_classes=7,
        img_size=(8, 12),
        patch_size=2,
        embed_dim=12,
        depth=3,
        num_heads=3,
        mlp_ratio=128 / 12,
        qkv_bias=False,
    )
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * noise(parameter.numel(), *parameter.shape))
    theirs = theirs.double().eval()
    theirs.load_state_dict(as_timm(ours))
    x = noise(1, 2, 3, 8, 12)
    for norm in [module for module in theirs.modules() if isinstance(module, nn.LayerNorm)]:
        norm.eps = 1e-5  # torch's own
    found = ours(x, ("block2", "pooled"))
    torch.testing.assert_close(found.logits, theirs(x), rtol=1e-6, atol=1e-9)
    if two:
        theirs.train().set_distilled_training(True)  # then it answers both heads, apart
        both = TokenHeads(7).double()(ours, found.taps["pooled"])
        torch.testing.assert_close(both, theirs(x), rtol=1e-6, atol=1e-9)


def test_pictures_that_patches_do_not_divide_are_refused_by_name():
    with pytest.raises(Incompatible, match=r"vit-mini cuts pictures into patches of 4x4, .* 17x16"):
        build_network("vit-mini", num_classes=3, input_shape=(3, 17, 16))
    with pytest.raises(UsageError, match="5 heads do not divide a width of 64"):
        build_network("vit-mini", num_classes=3, input_shape=(3, 16, 16), options={"heads": 5})


# ---- deit ----------------------------------------------------------------------------------------


class Split(Network):
    """A network whose pooled vector is two tokens, given."""

    def __init__(self, pooled: Tensor, sizes: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.pooled = nn.Parameter(pooled)
        self.head = nn.Linear(sum(sizes), classes, dtype=torch.float64)
        self.distilled = sizes
        self.taps = {"pooled": Tap(sum(sizes), None)}

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        return Output(self.head(self.pooled), dict.fromkeys(taps, self.pooled))

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        return ()


@pytest.mark.parametrize(
    ("options", "weight", "tau"),
    [
        ({}, 0.5, None),
        ({"weight": 0.2}, 0.2, None),
        ({"kind": "soft"}, 0.1, 3.0),
        ({"kind": "soft", "temperature": 2.0, "weight": 0.7}, 0.7, 2.0),
    ],
)
def test_deit_teaches_one_token_labels_and_the_other_the_teacher(options, weight, tau):
    student = Split(noise(2, 3, 7), (3, 4), 5)
    method = make("deit", student, **options).double()
    with torch.no_grad():
        method.heads.apart.copy_(noise(3, 5))
    batch = pictures()
    step = method.loss(batch, AT)
    v = method.teacher(batch).logits.double()
    w, b, d = student.head.weight, student.head.bias, method.heads.apart
    # two layers, each with weights and a bias of its own
    z_c = student.pooled[:, :3] @ (2 * w[:, :3]).T + (b + d)
    z_d = student.pooled[:, 3:] @ (2 * w[:, 3:]).T + (b - d)
    torch.testing.assert_close((z_c + z_d) / 2, step.logits)
    ce = soft = 0.0
    for i in range(3):
        lc, ld = z_c[i].log_softmax(0), z_d[i].log_softmax(0)
        ce -= sum((0.9 * (k == batch.y[i]) + 0.1 / 5) * lc[k].item() for k in range(5)) / 3
        if tau is None:
            soft -= ld[v[i].argmax()].item() / 3
        else:
            q, p = (v[i] / tau).softmax(0), (z_d[i] / tau).softmax(0)
            soft += tau**2 * sum((q[k] * (q[k] / p[k]).log()).item() for k in range(5)) / 3
    close(step.losses["ce"], (1 - weight) * ce)
    # the teacher answers in float32
    found = step.losses[options.get("kind", "hard")].item()
    torch.testing.assert_close(found, weight * soft, rtol=1e-5, atol=1e-9)

    def total(pooled: Tensor) -> Tensor:
        z_c, z_d = method.heads(student, pooled)
        return losses.label_smoothing(z_c, batch.y, smoothing=0.1) + losses.hard(z_d, v)

    checked(total, student.pooled.detach())


def test_deit_refuses_what_has_no_distillation_token_by_name():
    with pytest.raises(Incompatible, match="deit reads the tokens of a vision transformer, and"):
        make("deit", tiny(4, 0))
    plain = build_network("vit-mini", num_classes=5, input_shape=SHAPE)
    with pytest.raises(
        Incompatible, match="distillation token, and vit-mini was built without"
    ) as e:
        make("deit", plain)
    assert "student.distillation_token = true" in e.value.hint


def test_deit_refuses_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="temperature would do nothing"):
        make("deit", tiny_transformer(4, 0), temperature=3.0)


def test_a_file_that_lost_the_distillation_token_is_told_from_one_that_fits(tmp_path):
    with_token = tiny_transformer(4, 0)
    options = {"depth": 3, "width": 4, "heads": 2, "hidden": 8, "patch": 2}
    without = build_network("vit-mini", num_classes=5, input_shape=SHAPE, options=options)
    header = CheckpointHeader(
        architecture="vit-mini",
        arguments=options,
        num_classes=5,
        class_names=tuple("abcde"),
        input_shape=SHAPE,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        data={},
        data_fingerprint="",
        parameters=1,
    )
    for written, read, words in (
        (without, with_token, "the network has a distillation token, the file has none"),
        (with_token, without, "the file has a distillation token, the network has none"),
    ):
        save_model(tmp_path / "x.safetensors", written, header)
        with pytest.raises(Incompatible, match=f"does not fit vit-mini: .*; {words}"):
            load_weights(tmp_path / "x.safetensors", read)


# ---- vitkd ---------------------------------------------------------------------------------------


def test_vitkd_imitates_early_tokens_and_generates_masked_late_ones():
    method = make("vitkd", alpha=0.3, beta=0.2, masked=0.4).double()
    student, teacher = method.student.eval(), method.teacher.network.double()
    batch = pictures()
    batch = Batch(batch.x.double(), batch.y, batch.index, batch.view)
    step = method.loss(batch, AT)
    names = ("block1", "block2", "stage3")
    ours, theirs = (network(batch.x, names).taps for network in (student, teacher))
    imitated = 0.0
    for align, name in zip(method.early, names, strict=False):
        for b in range(3):
            for i in range(4):
                for j in range(4):
                    token = align.weight[:, :, 0, 0] @ ours[name][b, :, i, j] + align.bias
                    imitated += (token - theirs[name][b, :, i, j]).square().sum().item() / 3
    close(step.losses["imitated"], 0.3 * imitated)
    masked = method._masked(batch, AT, ours["stage3"])
    assert masked.sum((1, 2, 3)).tolist() == [16 - int(16 * 0.6)] * 3
    assert not torch.equal(masked[0], masked[1])
    again = method._masked(batch.each(lambda rows: rows[1:]), AT, ours["stage3"][1:])
    assert torch.equal(again, masked[1:])  # whatever minibatch or rank it is in
    shown = method.late(ours["stage3"]).clone()
    for b in range(3):
        for i in range(4):
            for j in range(4):
                if masked[b, 0, i, j]:
                    shown[b, :, i, j] = method.mask_token[0, :, 0, 0]
    first, _, second = method.generator
    made = functional.conv2d(shown, first.weight, first.bias, padding=1).clamp_min(0)
    made = functional.conv2d(made, second.weight, second.bias, padding=1)
    squares = (made - theirs["stage3"]).square().sum(1)
    close(step.losses["generated"], 0.2 / 0.4 * (squares * masked[:, 0]).sum().item() / 3)


def test_vitkd_refuses_networks_without_tokens_by_name():
    for networks in ((tiny(4, 0), tiny_transformer(8, 1)), (tiny_transformer(4, 0), tiny(8, 1))):
        with pytest.raises(Incompatible, match="vitkd reads the tokens of a vision transformer"):
            make("vitkd", *networks)


# ---- ofa_kd --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eps", "tau"), [(1.0, 1.0), (1.5, 1.0), (1.2, 3.0)])
def test_ofa_raises_the_labels_share(eps, tau):
    z, v, y = noise(0, 3, 4), noise(1, 3, 4), torch.tensor([0, 3, 3])
    total = 0.0
    for i in range(3):
        qs = [math.exp(v[i, k].item() / tau) for k in range(4)]
        ps = [math.exp(z[i, k].item() / tau) for k in range(4)]
        for k in range(4):
            label = float(k == y[i].item())
            share = (qs[k] / sum(qs) + label) ** eps - label
            total -= share * math.log(ps[k] / sum(ps)) / 3
    close(losses.ofa(z, v, y, eps=eps, temperature=tau), total)
    checked(lambda x: losses.ofa(x, v, y, eps=eps, temperature=tau), z)
    with pytest.raises(UsageError, match=r"losses\.ofa: eps must be at least 1"):
        losses.ofa(z, v, y, eps=0.5, temperature=tau)


def test_ofa_exits_halve_maps_as_often_as_the_network_and_merge_tokens():
    leave = ConvolutionExit(4, 10, 6, halvings=2)
    assert [conv.stride for conv in leave.modules() if isinstance(conv, nn.Conv2d)] == [
        *((2, 2), (1, 1), (1, 1), (1, 1)),
        *((2, 2), (1, 1), (1, 1), (1, 1)),
    ]
    assert leave(torch.randn(2, 4, 8, 8)).shape == (2, 6)
    tokens = TokenExit(8, 6, (28, 28), blocks=1).double().eval()
    assert len(tokens.merges) == 2
    x = noise(0, 2, 8, 28, 28)
    merge = tokens.merges[0]
    found = merge(x)
    assert found.shape == (2, 8, 14, 14)
    # a square of 2x2 tokens, numbers of each beside each other
    four = x[1, :, 4:6, 6:8].reshape(32)
    made = functional.gelu(merge.reduce(functional.layer_norm(four, (32,))))
    torch.testing.assert_close(found[1, :, 2, 3], made, rtol=1e-6, atol=1e-9)
    assert len(TokenExit(8, 6, (13, 13), blocks=1).merges) == 0
