"""Losses of methods with several networks against plain loops in float64, and their gradients."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kdcli import losses
from kdcli.core.types import Batch, Progress
from kdcli.errors import Incompatible
from kdcli.jobs import build_network
from kdcli.modules.gate import Gate
from tests.catalogue.conftest import SHAPE, tiny
from tests.golden.test_golden_feature import checked, close, noise
from tests.unit.methods.test_feature_methods import make

Y = torch.tensor([0, 3, 3])


def softmax(row, tau: float = 1.0) -> list[float]:
    found = [math.exp(each.item() / tau) for each in row]
    return [each / sum(found) for each in found]


def pictures() -> Batch:
    x, index = noise(0, 3, *SHAPE), torch.arange(3)
    return Batch(x, index % 5, index, torch.zeros(3, dtype=torch.int64))


def test_teachers_count_by_how_well_they_know_the_label():
    z, teachers, tau = noise(0, 3, 4), [noise(seed, 3, 4) for seed in (1, 2, 3)], 2.5
    total = 0.0
    for i in range(3):
        hard = [-math.log(softmax(v[i])[Y[i]]) for v in teachers]
        weights = [math.exp(each) / sum(map(math.exp, hard)) for each in hard]
        for m, v in enumerate(teachers):
            weight = (1 - weights[m]) / 2
            close(losses.confidence_weights(teachers, Y)[m, i], weight)
            p, q = softmax(z[i], tau), softmax(v[i], tau)
            total += weight * tau**2 * sum(q[k] * math.log(q[k] / p[k]) for k in range(4)) / 3
    close(losses.ca_mkd(z, teachers, Y, temperature=tau), total)
    checked(lambda x: losses.ca_mkd(x, teachers, Y, temperature=tau), z)
    checked(lambda x: losses.confidence_weights([x, *teachers], Y).square().sum(), z)
    with pytest.raises(Incompatible, match="compares two teachers or more, got 1"):
        losses.confidence_weights(teachers[:1], Y)


def test_ca_mkd_reads_the_students_features_by_each_teachers_last_layer():
    method = make("ca_mkd", beta=7.0, alpha=0.5).double().eval()
    teachers = [teacher.network.double() for teacher in method.teacher_nets]
    batch = pictures()
    step = method.loss(batch, Progress("distill", epoch=1, epochs=2, step=0, steps=4))
    ours = method.student(batch.x, ("stage3",)).taps["stage3"]
    hard, squares = [], []
    for connector, teacher in zip(method.connectors, teachers, strict=True):
        conv, norm, _ = connector
        made = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], ours)
        made = (made + conv.bias.view(1, -1, 1, 1)) / math.sqrt(1 + norm.eps)
        made = made.clamp_min(0)
        z = made.mean((2, 3)) @ teacher.head.weight.T + teacher.head.bias
        hard.append([-math.log(softmax(z[i])[batch.y[i]]) for i in range(3)])
        theirs = teacher(batch.x, ("stage3",)).taps["stage3"]
        squares.append([(made - theirs)[i].square().mean().item() for i in range(3)])
    total = 0.0
    for i in range(3):
        each = [math.exp(row[i]) for row in hard]
        total += sum((1 - each[m] / sum(each)) * squares[m][i] for m in range(2)) / 3
    close(step.losses["features"], 7.0 * total)
    close(
        step.losses["kd"],
        0.5
        * losses.ca_mkd(
            step.logits, [net(batch.x).logits for net in teachers], batch.y, temperature=4.0
        ).item(),
    )


def test_what_networks_say_together_is_the_best_or_the_least():
    answers = [noise(seed, 3, 4) for seed in (4, 5, 6)]
    best, least = losses.naive_target(answers, Y), losses.min_logit_target(answers, Y)
    for i in range(3):
        known = [softmax(z[i])[Y[i]] for z in answers]
        assert torch.equal(best[i], answers[known.index(max(known))][i])
        for k in range(4):
            close(least[i, k], min(z[i, k].item() - z[i, Y[i]].item() for z in answers))
        assert softmax(least[i])[Y[i]] >= max(known) - 1e-12


@pytest.mark.parametrize("target", ["naive", "min_logit"])
def test_kdcl_teaches_every_network_what_they_say_together(target):
    method = make("kdcl", target=target, temperature=3.0, weight=0.5).double().eval()
    batch = pictures()
    step = method.loss(batch, Progress("train", epoch=1, epochs=2, step=0, steps=4))
    answers = [network(batch.x).logits for network in (method.student, *method.peers)]
    made = losses.naive_target if target == "naive" else losses.min_logit_target
    together = made(answers, batch.y)
    for prefix, z in zip(("", "peer1_"), answers, strict=True):
        close(step.losses[f"{prefix}ce"], losses.cross_entropy(z, batch.y).item())
        soft = losses.kd(z, together, temperature=3.0).item()
        close(step.losses[f"{prefix}together"], 0.5 * soft)


def test_one_gates_branches_of_the_last_stage_to_an_ensemble():
    method = make("one", tiny(4, 1), warmup_epochs=4).double().eval()
    batch = pictures()
    step = method.loss(batch, Progress("train", epoch=3, epochs=9, step=0, steps=4))
    z, taps = method.student(batch.x, ("stage2",))
    answers = [z, *(branch(taps["stage2"]) for branch in method.branches)]
    gate: Gate = method.gate
    score = taps["stage2"].mean((2, 3)) @ gate.linear.weight.T + gate.linear.bias
    weights = (score / math.sqrt(1 + gate.norm.eps)).clamp_min(0).softmax(1)
    together = sum(weights[:, m : m + 1] * answers[m] for m in range(3))
    risen = math.exp(-5 * (1 - 2 / 4) ** 2)
    for prefix, answer in zip(("", "branch1_", "branch2_"), answers, strict=True):
        close(step.losses[f"{prefix}ce"], losses.cross_entropy(answer, batch.y).item())
        soft = losses.kd(answer, together, temperature=3.0).item()
        close(step.losses[f"{prefix}ensemble"], risen * soft)
    close(step.losses["gate_ce"], losses.cross_entropy(together, batch.y).item())
    close(weights.sum(), 3.0)
    checked(lambda x: gate(x).square().sum(), taps["stage2"].detach())


def test_what_follows_a_tap_gives_the_networks_own_logits():
    network = build_network("resnet8", num_classes=5, input_shape=SHAPE).eval()
    x = pictures().x.float()
    z, taps = network(x, ("stage2",))
    assert torch.equal(network.tail("stage2")(taps["stage2"].clone()), z)
    twin = copy.deepcopy(network).tail("stage1")
    with torch.no_grad():
        next(twin.parameters()).add_(1)  # its own parts
    assert torch.equal(network(x).logits, z)


def test_one_refuses_networks_that_cannot_be_cut_by_name():
    with pytest.raises(Incompatible, match=r"vit-mini cannot be cut after 'stage3'"):
        make("one", build_network("vit-mini", num_classes=5, input_shape=SHAPE))
