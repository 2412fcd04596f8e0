"""What a method's loss does at the labels' logits: the method's own loss, whatever it is, and
nothing where logits and labels do not decide it.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdcli import catalog
from kdcli.analysis.metrics import measure
from kdcli.core.types import DataInfo
from kdcli.errors import Incompatible
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.measure.answers import Answers
from kdcli.jobs.measure.explanations import Parts, _rescaling
from kdcli.jobs.measure.logit_gradients import label_gradient

N, K = 200, 6
Y = torch.arange(N) % K
EPOCHS = 40  # more than any default's warm-up
# the loss of these is made of two networks' logits and of labels
ON_LOGITS = {
    *("none", "label_smoothing", "tf_kd", "kd", "kd_pt", "kd_pt_rel", "kd_pt_sim", "kd_rel"),
    *("kd_sim", "kd_topk", "skd", "logit_std", "dkd", "dist"),
    *("hard", "mlkd", "nkd", "ttm", "wsld", "wttm", "seqkd"),
}


def answers(method: str, seed: int, *, epochs: int | None = EPOCHS, **options) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(N, K, generator=generator) + 2 * functional.one_hot(Y, K)
    info = DataInfo(
        name="drawn",
        num_classes=K,
        num_train=N,
        input_shape=(1, 4, 4),
        class_names=tuple("abcdef"),
        mean=(0.5,),
        std=(0.5,),
        fingerprint="drawn",
        targets=Y,
        superclass=torch.tensor([0, 0, 1, 1, 2, 2]),
    )
    network = build_network("mlp", num_classes=K, input_shape=(1, 4, 4), options={"hidden": [5]})
    return Answers(
        *(method, "", "mlp", 0, method, network.eval().requires_grad_(False), info, logits, Y),
        measures=measure(logits, Y),
        method_options=options,
        epochs=epochs,
    )


TEACHER = answers("none", 1)


def misses(z: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """1 - p_y."""
    return 1 - (z.double() / temperature).softmax(1).gather(1, Y[:, None])[:, 0]


@pytest.mark.parametrize("name", catalog.names("method"))
def test_a_method_with_a_loss_on_logits_alone_has_a_gradient_and_no_other(name):
    if name in ON_LOGITS:
        found = label_gradient(answers(name, 0), TEACHER)
        assert found.slopes.isfinite().all()
        assert found.slopes.abs().max() > 0
    else:
        with pytest.raises(Incompatible, match=f"{name} has no loss on logits alone: it"):
            label_gradient(answers(name, 0), TEACHER)


@pytest.mark.parametrize("t_squared", [True, False])
@pytest.mark.parametrize("ce_weight", [None, 0.5])
def test_kd_s_is_the_exact_formula(t_squared, ce_weight):
    """Paper 002, equation 3: ce (p_y(1) - 1) + w tau^(1 or -1) (p_y - q_y)."""
    student = answers(
        "kd", 0, temperature=3.0, weight=0.7, t_squared=t_squared, ce_weight=ce_weight
    )
    found = label_gradient(student, TEACHER)
    soft = misses(TEACHER.logits, 3.0) - misses(student.logits, 3.0)
    expected = -(ce_weight or 0.3) * misses(student.logits)
    expected += 0.7 * (3.0 if t_squared else 1 / 3.0) * soft
    torch.testing.assert_close(found.slopes, expected)
    assert found.temperature == 3.0


def test_label_smoothing_s_is_the_exact_formula():
    found = label_gradient(answers("label_smoothing", 0, smoothing=0.2), TEACHER)
    expected = -misses(answers("none", 0).logits) + 0.2 * (1 - 1 / K)
    torch.testing.assert_close(found.slopes, expected)
    assert found.temperature == 1.0


def test_skd_s_is_that_of_finite_differences_of_its_own_loss():
    """Its logits are rescaled inside the loss, so that kd's formula does not hold."""
    student = answers("skd", 0)
    found = label_gradient(student, TEACHER).slopes
    as_kd = label_gradient(answers("kd", 0), TEACHER).slopes
    z, v = student.logits.double(), TEACHER.logits.double()

    def loss(z: torch.Tensor) -> torch.Tensor:
        z = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) * v.std(1, keepdim=True)
        p, q = (z / 4).log_softmax(1), (v / 4).softmax(1)
        ce = functional.cross_entropy(z, Y, reduction="none")
        return 0.1 * ce + 0.9 * 16 * (q * (q.log() - p)).sum(1)

    step = 1e-5 * functional.one_hot(Y, K)
    expected = (loss(z + step) - loss(z - step)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert (found - as_kd).abs().max() > 0.1


def test_the_last_epoch_counts():
    """Where distillation has stopped by then, what is left is the cross-entropy."""
    stopped = answers("kd", 0, kd_stop_epoch=EPOCHS - 1)
    torch.testing.assert_close(label_gradient(stopped, TEACHER).slopes, -misses(stopped.logits))
    going = answers("kd", 0, kd_stop_epoch=EPOCHS)
    assert not torch.equal(label_gradient(going, TEACHER).slopes, -misses(going.logits))


def test_a_checkpoint_that_does_not_say_how_long_it_was_trained_is_refused():
    with pytest.raises(Incompatible, match="does not say for how many epochs"):
        label_gradient(answers("kd", 0, epochs=None), TEACHER)


@pytest.mark.parametrize("name", ["none", "crd"])
def test_without_a_factor_there_is_no_figure(name):
    """Cross-entropy rescales nothing, which is no news; that a loss is not on logits is said."""
    parts = Parts()
    found = parts.attempt(
        "gradient rescaling", name, lambda: _rescaling(TEACHER, answers(name, 0), 10)
    )
    assert found is None
    assert len(parts.warnings) == (name == "crd")


def test_the_networks_are_left_as_they_were():
    student = answers("kd_sim", 0)
    before = {key: value.clone() for key, value in student.network.state_dict().items()}
    label_gradient(student, TEACHER)
    assert student.network.state_dict().keys() == before.keys()
    assert all(
        torch.equal(value, before[key]) for key, value in student.network.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in student.network.parameters())
