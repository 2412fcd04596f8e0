"""SimKD: what it deploys is one network, measured, taught by and described by its checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from kdcli import losses
from kdcli.core.teacher import Teacher
from kdcli.core.types import Progress
from kdcli.errors import Incompatible
from kdcli.jobs import build_network
from kdcli.jobs.build.networks import fresh_network
from tests.catalogue.conftest import tiny
from tests.unit.methods.test_feature_methods import make, pictures, zoo

AT = Progress("distill", epoch=1, epochs=2, step=0, steps=2)


def test_the_loss_is_on_maps_and_the_logits_are_the_teachers_heads():
    method = make("simkd", tiny(4, 1), tiny(8, 2)).eval()
    batch = pictures(3)
    step = method.loss(batch, AT)
    assert list(step.losses) == ["simkd"]
    teacher = method.teacher(batch, ("stage3",))
    read = method.student(batch.x, ("stage3",)).taps["stage3"]
    torch.testing.assert_close(
        step.losses["simkd"], losses.fitnet(method.projector(read), teacher.taps["stage3"])
    )
    torch.testing.assert_close(step.logits, method.deployable()(batch.x).logits)
    assert torch.equal(method.deployable().head.weight, method.teacher.network.head.weight)


def test_a_perfect_projection_gives_the_teachers_logits():
    method = make("simkd", tiny(4, 1), tiny(8, 2)).eval()
    batch = pictures(3)
    teacher = method.teacher(batch, ("stage3",))
    method.projector.forward = lambda x: x
    method.student.forward = lambda x, taps=(): teacher
    torch.testing.assert_close(method.deployable()(batch.x).logits, teacher.logits)


def test_labels_and_logits_may_be_learnt_from_through_the_same_head():
    terms = make("simkd", ce_weight=1, kd_weight=0.5).loss(pictures(3), AT).losses
    assert list(terms) == ["ce", "kd", "simkd"]


def test_a_head_that_is_more_than_weights_is_refused():
    class Scaled(nn.Linear):
        """A linear layer of its own."""

    teacher = tiny(8, 2)
    teacher.head = Scaled(32, 5)
    with pytest.raises(Incompatible, match="is a Scaled, and only a plain linear one"):
        make("simkd", tiny(4, 1), Teacher(teacher).network)


def test_maps_are_bridged_where_both_heads_average_one_and_vectors_elsewhere():
    def taps(student, teacher):
        return make("simkd", zoo(student, (3, 32, 32)), zoo(teacher, (3, 32, 32))).taps

    assert taps("resnet8", "resnet20") == (("stage3",), ("stage3",))
    assert taps("resnet8", "resnet50") == (("stage3",), ("stage4",))
    assert taps("mobilenet_v2", "resnet20") == (("pooled",), ("pooled",))  # 160 against 1280
    assert taps("resnet8", "cnn-large") == (("pooled",), ("pooled",))
    assert taps("mlp", "resnet20") == (("pooled",), ("pooled",))


@pytest.mark.parametrize("teacher", ["resnet20", "cnn-large"])
def test_a_header_describes_it(teacher):
    student = build_network("resnet8", num_classes=5, input_shape=(3, 32, 32))
    whole = make("simkd", student, zoo(teacher, (3, 32, 32))).deployable().eval()
    again = fresh_network(
        whole.blueprint.architecture,
        num_classes=5,
        input_shape=(3, 32, 32),
        options=json.loads(json.dumps(whole.blueprint.arguments)),
    )
    assert again.blueprint == whole.blueprint
    again.load_state_dict(whole.state_dict())
    x = pictures(3, (3, 32, 32)).x
    assert torch.equal(again.eval()(x).logits, whole(x).logits)
    assert not any(key.startswith("body.head") for key in whole.state_dict())


def test_its_taps_are_its_bodys_and_what_its_head_reads():
    whole = make("simkd", tiny(4, 1), tiny(8, 2)).deployable().eval()
    x = pictures(3).x
    assert whole.taps["stage3"].channels == 16
    assert whole.taps["pooled"].channels == 32
    found = whole(x, ("pooled", "stage1")).taps
    assert list(found) == ["pooled", "stage1"]
    torch.testing.assert_close(whole.head(found["pooled"]), whole(x).logits)
    assert whole.projector in whole.trunk("pooled")
    assert whole.trunk("stage1") == whole.body.trunk("stage1")
    assert whole.norm_at("stage2.pre") is whole.body.norm_at("stage2.pre")
    with pytest.raises(Incompatible, match="reused_head has no tap 'stage9'"):
        whole(x, ("stage9",))
