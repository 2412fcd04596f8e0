"""Class weights: which numbers they are, and that they reach the losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli import losses
from kdcli.core.class_weights import ClassWeights, weighing
from kdcli.engine import trainer
from kdcli.errors import Exit, Incompatible, Interrupted, RecipeInvalid
from kdcli.files import sha256_file
from kdcli.jobs import resume, train_teacher
from tests.unit.jobs.conftest import QUICK

Z = torch.tensor([[1.0, 0.2, -0.5], [0.3, 0.1, 0.9], [-1.0, 2.0, 0.4], [0.0, 0.5, 0.5]])
Y = torch.tensor([0, 0, 1, 2])
W = torch.tensor([0.5, 2.0, 1.0])


def plain(loss, rows):
    return torch.stack([loss(Z[at : at + 1], Y[at : at + 1]) for at in rows])


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        lambda z, y: losses.label_smoothing(z, y, smoothing=0.2),
        lambda z, y: losses.label_smoothing(z, y, smoothing=0.2, form="others"),
    ],
)
def test_a_row_counts_by_the_weight_of_its_label(loss):
    expected = (W[Y] * plain(loss, range(4))).mean()
    with weighing(ClassWeights(W)):
        torch.testing.assert_close(loss(Z, Y), expected)
    torch.testing.assert_close(loss(Z, Y), plain(loss, range(4)).mean())


def test_weighted_cross_entropy_is_pytorchs_but_for_its_scale():
    theirs = torch.nn.functional.cross_entropy(Z, Y, weight=W)
    with weighing(ClassWeights(W)):
        torch.testing.assert_close(losses.cross_entropy(Z, Y) * 4 / W[Y].sum(), theirs)


def test_weights_hold_only_within():
    weights = ClassWeights(W)
    with weighing(weights):
        assert not weights.used
        losses.kd(Z, Z + 1, temperature=1.0)
        assert not weights.used, "what is learned from a teacher is not weighed"
        losses.cross_entropy(Z, Y)
    assert weights.used
    torch.testing.assert_close(losses.cross_entropy(Z, Y), torch.nn.functional.cross_entropy(Z, Y))


@pytest.fixture
def unequal(tmp_path):
    """Digits of which 0 has few training images, as an npz file; and its training labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    first = [at for at in np.flatnonzero(digits.target == 0)[10:] if at < 1400]
    kept = np.setdiff1d(np.arange(1400), first)
    pictures = (digits.images * 15).astype("uint8")
    np.savez(
        tmp_path / "unequal.npz",
        x_train=pictures[kept], y_train=digits.target[kept],
        x_test=pictures[1400:], y_test=digits.target[1400:],
    )  # fmt: skip
    return {"data.path": str(tmp_path / "unequal.npz")}, digits.target[kept]


def job_of(keys):
    from kdcli.jobs.build.job import build_job
    from kdcli.recipe.resolve import resolve

    values = {"model.name": "mlp", "data.name": "npz", **keys}
    resolved = resolve("train-teacher", values=values)
    return build_job(resolved.recipe, lambda _: pytest.fail("no teacher"))


def test_balanced_weights_are_scikit_learns(unequal):
    from sklearn.utils.class_weight import compute_class_weight

    path, labels = unequal
    found = job_of({**path, "train.class_weights": "balanced"}).class_weights.values
    theirs = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    np.testing.assert_allclose(found.numpy(), theirs, rtol=1e-6)


def test_given_weights_have_mean_one_over_the_images_that_training_shows(unequal):
    path, labels = unequal
    given = [float(number) for number in range(1, 11)]
    found = job_of({**path, "train.class_weights": given}).class_weights.values
    assert found[torch.tensor(labels)].mean().item() == pytest.approx(1)
    assert (found / found[0]).tolist() == pytest.approx(given)
    dealt = job_of({**path, "train.class_weights": given, "data.sampler": "balanced"})
    assert dealt.class_weights.values.mean().item() == pytest.approx(1)


def test_one_weight_a_class_is_asked_for(unequal):
    with pytest.raises(Incompatible, match=r"class_weights has 2 numbers, and npz has 10 classes"):
        job_of({**unequal[0], "train.class_weights": [1.0, 2.0]})


def test_balanced_twice_is_refused():
    twice = {"train.class_weights": "balanced", "data.sampler": "balanced"}
    with pytest.raises(RecipeInvalid) as caught:
        job_of({"data.name": "digits", **twice})
    (told,) = caught.value.diagnostics
    assert "count small classes twice" in told.problem
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    "keys", [{"train.class_weights": "balanced"}, {"data.sampler": "balanced"}], ids=["weights", "sampler"]
)  # fmt: skip
def test_a_run_that_was_stopped_resumes_to_the_same_bytes(unequal, tmp_path, monkeypatch, keys):
    settings = {**QUICK, **unequal[0], **keys}

    def learn(name):
        return train_teacher(model="mlp", data="npz", name=name, out=tmp_path, overrides=settings)

    whole = learn("whole")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_end_epoch", stopping_after(2, trainer.Trainer._end_epoch))
        with pytest.raises(Interrupted):
            learn("stopped")
    again = resume(tmp_path / "stopped")
    assert sha256_file(Path(again.checkpoint)) == sha256_file(Path(whole.checkpoint))
    assert not whole.warnings
    plain = train_teacher(
        model="mlp", data="npz", name="plain", out=tmp_path, overrides={**QUICK, **unequal[0]}
    )
    assert sha256_file(Path(plain.checkpoint)) != sha256_file(Path(whole.checkpoint))
    assert whole.test.balanced_accuracy is not None


def stopping_after(calls, method):
    """The method, interrupted before it is called for the last time."""
    left = [calls]

    def called(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return method(*arguments)

    return called


def test_a_loss_that_weighs_nothing_is_said(unequal, tmp_path):
    (tmp_path / "mine.py").write_text(
        """from kdcli.core.method import Arity, Method
from kdcli.core.types import Step
from torch.nn import functional

FAMILY = "own"


class Own(Method):
    \"\"\"Own cross-entropy

    L = CE
    \"\"\"

    teachers = Arity(0, 0)
    consumes = "labels"

    def loss(self, batch, at):
        z = self.student(batch.x).logits
        return Step({"ce": functional.cross_entropy(z, batch.y)}, z)
"""
    )
    keys = {**QUICK, **unequal[0], "train.class_weights": "balanced"}
    run = train_teacher(
        model="mlp", data="npz", out=tmp_path, trust=True, name="run",
        overrides={**keys, "method.name": str(tmp_path / "mine.py")},
    )  # fmt: skip
    assert any("class_weights weighed nothing" in warning for warning in run.warnings)
