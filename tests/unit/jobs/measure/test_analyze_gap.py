"""Every figure of analyze-gap agrees with a direct computation in float64 from the logits that it
saves.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdcli.errors import BadCheckpoint, Incompatible, KdError
from kdcli.jobs import analyze_gap, evaluate, train_teacher
from kdcli.recipe.schema import GatesSection
from tests.unit.jobs.conftest import QUICK

TEMPERATURES = (1.0, 4.0, 9.0)


def entropy(row: np.ndarray, tau: float) -> float:
    shares = [math.exp((x - max(row)) / tau) for x in row]
    total = sum(shares)
    return -sum(share / total * math.log(share / total) for share in shares if share > 0)


def free_energy(row: np.ndarray, tau: float) -> float:
    centred = row - row.mean()
    return tau * math.log(sum(math.exp(x / tau) for x in centred))


@pytest.fixture(scope="module")
def report_and_logits(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("logits") / "logits.safetensors"
    report = analyze_gap(
        trained.out / "teacher",
        [trained.out / "kd", trained.out / "skd"],
        temperatures=TEMPERATURES,
        save_logits_to=path,
        bootstrap=50,
    )
    return report, {name: array.astype(np.float64) for name, array in load_file(path).items()}


def test_every_number_agrees_with_float64_from_the_saved_logits(report_and_logits):
    report, saved = report_and_logits
    v = saved["teacher"]
    assert {(pair.student, pair.form) for pair in report.pairs} == {
        ("kd", "raw"),
        ("skd", "raw"),
        ("skd", "aligned"),
    }
    for pair in report.pairs:
        z = saved[f"{'aligned' if pair.form == 'aligned' else 'student'}.{pair.student}"]
        k = z.shape[1]
        norms = [((x - x.mean(1, keepdims=True)) ** 2).sum(1).mean() for x in (v, z)]
        assert pair.agreement == pytest.approx((z.argmax(1) == v.argmax(1)).mean())
        for at in pair.at:
            tau = at.temperature
            gap = np.mean([entropy(a, tau) - entropy(b, tau) for a, b in zip(z, v, strict=True)])
            energy = np.mean(
                [free_energy(b, tau) - free_energy(a, tau) for a, b in zip(z, v, strict=True)]
            )
            assert at.entropy.value == pytest.approx(gap, abs=1e-6)
            assert at.free_energy.value == pytest.approx(energy, abs=1e-6)
            assert at.entropy_second_order == pytest.approx(
                (norms[0] - norms[1]) / (2 * k * tau**2), rel=1e-6, abs=1e-9
            )
            assert at.free_energy_second_order == pytest.approx(
                (norms[0] - norms[1]) / (2 * k * tau), rel=1e-6, abs=1e-9
            )
            assert at.entropy.low <= at.entropy.value <= at.entropy.high


def test_accuracy_and_calibration_are_those_of_the_logits(report_and_logits):
    report, saved = report_and_logits
    for student in (item for item in report.students if item.form == "raw"):
        z, y = saved[f"student.{student.label}"], saved["targets"]
        assert student.measures.accuracy == pytest.approx((z.argmax(1) == y).mean())


def test_alignment_changes_no_prediction_and_brings_the_norms_together(report_and_logits):
    _, saved = report_and_logits
    z, aligned, v = saved["student.skd"], saved["aligned.skd"], saved["teacher"]
    assert (z.argmax(1) == aligned.argmax(1)).all()
    assert aligned.std(1) == pytest.approx(v.std(1), rel=1e-4)


def test_a_teacher_alone_has_a_profile_that_rises_with_temperature(trained):
    report = analyze_gap(trained.out / "teacher", bootstrap=20)
    entropies = [at.entropy.value for at in report.teacher.at]
    assert report.pairs == ()
    assert entropies == sorted(entropies)
    assert entropies[-1] < math.log(10)


def test_gates_hold_for_each_student_at_temperature_one(trained):
    gates = GatesSection(max_entropy_gap=99.0, min_accuracy=1.0)
    report = analyze_gap(
        trained.out / "teacher",
        [trained.out / "kd"],
        temperatures=(4.0,),
        gates=gates,
        bootstrap=20,
    )
    assert {gate.name: gate.passed for gate in report.gates} == {
        "max_entropy_gap": True,
        "min_accuracy": False,
    }


def test_networks_of_other_data_cannot_be_compared(trained, tmp_path):
    other = train_teacher(
        model="mlp",
        data="synthetic",
        out=tmp_path,
        overrides={**QUICK, "data.train": 200, "data.test": 50, "data.classes": 10},
    )
    with pytest.raises(Incompatible):
        analyze_gap(trained.out / "teacher", [other.run])
    with pytest.raises(Incompatible):
        analyze_gap(trained.out / "teacher", [other.run], data="digits")


def test_a_damaged_checkpoint_is_refused_by_name(trained, tmp_path):
    whole = (trained.out / "kd" / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCheckpoint, match=r"cut\.safetensors"):
        evaluate([tmp_path / "cut.safetensors"])
    with pytest.raises(KdError, match="no checkpoint"):
        evaluate([tmp_path / "absent"])


def test_evaluating_several_says_whether_they_differ(trained):
    result = evaluate([trained.out / "teacher", trained.out / "kd"], per_class=True)
    (pair,) = result.pairs
    first, second = (item.measures.accuracy for item in result.evaluations)
    assert pair.difference == pytest.approx(second - first)
    assert 0 <= pair.p_value <= 1
    assert len(result.evaluations[0].per_class) == 10


def test_a_checkpoint_sees_pixels_as_it_was_trained_whatever_data_it_is_measured_on(tmp_path):
    """The same test images, normalised by the statistics of another training set."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 6, 6), dtype=np.uint8)
    arrays = {
        "x_train": images[:40],
        "y_train": np.arange(40) % 3,
        "x_test": images[40:],
        "y_test": np.arange(20) % 3,
    }
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays, mean=[0.2], std=[0.1])
    small = {"data.path": str(path), "train.epochs": 1, "train.batch_size": 8, "report.html": False}
    run = train_teacher(model="mlp", data="npz", name="t", out=tmp_path, overrides=small)
    np.savez(path, **arrays, mean=[0.6], std=[0.4])
    measured = evaluate([run.run]).evaluations[0].measures
    assert measured.nll == pytest.approx(run.test.nll, rel=1e-5)
