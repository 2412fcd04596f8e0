"""Every explanation of analyze-gap is the pure function's of what the networks answered; what
cannot be said is left out with a reason.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.analysis.correlation_difference import correlation_difference
from kdcli.analysis.geometry import project, silhouette
from kdcli.analysis.hypothesis import hypothesis
from kdcli.analysis.rescaling import distance_ranks, rescaling
from kdcli.analysis.similarity import similarity
from kdcli.analysis.temperature_scaling import cross_fitted
from kdcli.engine.checkpoint import save_model
from kdcli.jobs import analyze_gap, train_teacher
from kdcli.jobs.build.networks import build_network, load_network
from kdcli.jobs.measure import from_checkpoint
from kdcli.modules.composite import Composite
from kdcli.recipe.measured_data import asked_for
from kdcli.results.weights_header import read_header
from tests.unit.jobs.conftest import QUICK

BOOTSTRAP = 40


class Direct:
    """What a checkpoint's network gives for the digits' test images, computed here."""

    def __init__(self, path: Path, images: torch.Tensor) -> None:
        self.network, self.header, _ = load_network(path)
        self.network.eval()
        with torch.no_grad():
            out = self.network(images, ("stage1", "pooled"))
        self.logits, self.features, self.stage = (
            out.logits,
            out.taps["pooled"],
            out.taps["stage1"].flatten(1),
        )
        self.weight, self.bias = self.network.head.weight.detach(), self.network.head.bias.detach()


@pytest.fixture(scope="module")
def images(trained):
    evaluator = from_checkpoint.CheckpointEvaluator(
        asked_for(), split="test", runtime=from_checkpoint.Runtime("cpu", precision="fp32")
    )
    feed, _ = evaluator.feed(*read_header(trained.out / "teacher"))
    batches = list(feed.split("test"))
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


@pytest.fixture(scope="module")
def report(trained):
    return analyze_gap(
        trained.out / "teacher",
        [trained.out / "kd", trained.out / "skd"],
        bootstrap=BOOTSTRAP,
        deep=True,
    )


@pytest.fixture(scope="module")
def teacher(trained, images):
    return Direct(trained.out / "teacher", images[0])


@pytest.fixture(scope="module")
def student(trained, images):
    return Direct(trained.out / "kd", images[0])


def biased_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = (each.double() - each.double().mean(dim=0) for each in (x, y))
    return float((a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))


def close(first, second, tolerance=1e-9):
    """Equal up to the rounding of batches of another size: the same types, and numbers within a
    tolerance.
    """
    if hasattr(first, "__dataclass_fields__"):
        assert type(first) is type(second)
        for name in first.__dataclass_fields__:
            close(getattr(first, name), getattr(second, name), tolerance)
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            close(a, b, tolerance)
    elif isinstance(first, float) and second is not None:
        assert first == pytest.approx(second, rel=1e-4, abs=tolerance)
    else:
        assert first == second


def test_labels_and_verdict_are_those_of_the_logits(report, teacher, images):
    expected = similarity(teacher.logits, images[1], temperatures=(1.0, 4.0, 9.0))
    for found, one in zip(report.explanation.similarity, expected, strict=True):
        close(replace(found, by_class=()), replace(one, by_class=()), 1e-6)
    assert report.explanation.hypothesis.effect == hypothesis(expected[2]).effect
    assert [each.effect for each in report.explanation.hypothesis.by_class] == [
        each.effect for each in hypothesis(expected[2]).by_class
    ]


def test_class_relations_are_correlations_of_the_probabilities_and_cosines_of_the_weights(
    report, teacher
):
    low, high, weights = report.explanation.relations.matrices
    for found, tau in ((low, 1.0), (high, 4.0)):
        q = (teacher.logits.double() / tau).softmax(1).numpy()
        assert np.array(found.values) == pytest.approx(np.corrcoef(q.T), abs=1e-5)
    w = teacher.weight.double().numpy()
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    assert np.array(weights.values) == pytest.approx(w @ w.T, abs=1e-6)
    assert report.explanation.relations.superclass is None


def test_projection_silhouette_and_calibration_are_those_of_features_and_logits(
    report, teacher, images
):
    found = report.explanation
    expected = project(
        teacher.features,
        images[1],
        teacher.weight,
        found.projection.classes,
        chosen=found.projection.chosen,
    )
    close(found.projection.spread, expected.spread, 1e-5)
    assert found.projection.points.sample == expected.points.sample
    close(found.silhouette, silhouette(teacher.features, images[1], classes=10), 1e-5)
    close(found.calibration, cross_fitted(teacher.logits, images[1], bootstrap=BOOTSTRAP), 1e-5)
    assert len(found.tsne.points.x) == 360


def test_a_pair_is_explained_from_the_same_logits_and_features(report, teacher, student, images):
    found, y = report.explanations[0], images[1]
    # kd's own: paper 002, equation 3
    weight, miss = 0.9, 1 - label_probability(student.logits, y)
    soft = label_probability(student.logits / 4, y) - label_probability(teacher.logits / 4, y)
    slopes = -(1 - weight) * miss + weight * 4 * soft
    close(
        found.rescaling[0],
        rescaling(student.logits, teacher.logits, y, slopes, temperature=4.0, bootstrap=BOOTSTRAP),
        1e-4,
    )
    ranks = distance_ranks(
        student.features,
        student.weight,
        teacher.logits,
        y,
        head_bias=student.bias,
        bootstrap=BOOTSTRAP,
    )
    close(found.distance_ranks, ranks, 1e-4)
    close(found.differences[0], correlation_difference(student.logits, teacher.logits, y), 1e-5)
    pearson = correlation_difference(
        student.logits, teacher.logits, y, of="pearson", matrices=False
    )
    assert found.differences[2].mean == pytest.approx(pearson.mean, abs=1e-5)
    close(found.calibration, cross_fitted(student.logits, y, bootstrap=BOOTSTRAP), 1e-4)


def label_probability(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(1).gather(1, y[:, None])[:, 0]


def test_every_method_rescales_by_its_own_loss(report, trained):
    kd, skd = (pair.rescaling[0] for pair in report.explanations)
    assert (kd.temperature, skd.temperature) == tuple(
        read_header(trained.out / name)[1].method_options["temperature"] for name in ("kd", "skd")
    )
    assert skd.mean != pytest.approx(kd.mean, rel=0.01)


def test_capacity_is_counted_and_measured(report, teacher, student):
    found = report.explanations[0].capacity
    assert found.teacher.parameters == sum(each.numel() for each in teacher.network.parameters())
    assert found.student.macs == 64 * 12 + 12 * 10
    assert found.parameter_ratio == pytest.approx(
        found.teacher.parameters / found.student.parameters
    )
    assert [each.batch for each in found.student.latencies] == [1, 32]
    assert found.latency_ratio == found.teacher.latency_1_ms / found.student.latency_1_ms


def test_cka_is_near_the_biased_one_and_1_between_a_network_and_itself(
    report, trained, teacher, student
):
    found = report.explanations[0].cka
    assert found.student_taps == ("stage1", "pooled")
    assert found.values[0][0] == pytest.approx(biased_cka(student.stage, teacher.stage), abs=0.05)
    itself = analyze_gap(
        trained.out / "teacher", [trained.out / "teacher"], bootstrap=5, deep=True
    ).explanations[0]
    assert [itself.cka.values[k][k] for k in range(2)] == pytest.approx([1.0, 1.0])
    assert itself.differences[0].largest == 0.0
    assert itself.capacity.macs_ratio == 1.0


def test_each_network_answers_once(trained, monkeypatch):
    calls = []
    found = from_checkpoint.found
    monkeypatch.setattr(
        from_checkpoint, "found", lambda *given, **more: calls.append(1) or found(*given, **more)
    )
    analyze_gap(
        [trained.out / "teacher", trained.out / "skd"], [trained.out / "kd"], bootstrap=5, deep=True
    )
    assert len(calls) == 3


def test_the_gap_is_the_same_without_explanations(trained, report):
    plain = analyze_gap(
        trained.out / "teacher",
        [trained.out / "kd", trained.out / "skd"],
        bootstrap=BOOTSTRAP,
        explain=False,
    )
    assert plain.pairs == report.pairs
    assert (plain.explanation, plain.explanations, plain.curve, plain.warnings) == (
        None,
        (),
        None,
        (),
    )


def test_what_is_deep_is_there_only_if_asked_and_timed_apart(trained, report):
    shallow = analyze_gap(trained.out / "teacher", [trained.out / "kd"], bootstrap=5)
    assert (
        shallow.explanation.tsne,
        shallow.explanation.silhouette,
        shallow.explanations[0].cka,
    ) == (None, None, None)
    assert shallow.explanations[0].capacity.teacher.latencies == ()
    assert not {"t-SNE", "silhouette", "CKA", "latency"} & shallow.seconds.keys()
    assert {"networks", "gap", "t-SNE", "silhouette", "CKA", "latency"} <= report.seconds.keys()


# ---- several teachers ----------------------------------------------------------------------------


def test_one_student_is_compared_with_every_teacher(trained):
    report = analyze_gap(
        [trained.out / "teacher", trained.out / "skd"], [trained.out / "kd"], bootstrap=5
    )
    assert [one.teacher.label for one in report.reports] == ["teacher", "skd"]
    assert [pair.student for one in report.reports for pair in one.pairs] == ["kd", "kd"]
    sizes = [row.capacity for row in report.curve.rows]
    assert sizes == sorted(sizes)
    assert [row.label for row in report.curve.rows] == ["skd", "teacher"]
    assert {row.accuracy for row in report.curve.rows} == {report.students[0].measures.accuracy}


def test_several_students_stay_with_the_teachers_that_taught_them(trained):
    report = analyze_gap(
        [trained.out / "skd", trained.out / "teacher"],
        [trained.out / "kd", trained.out / "skd"],
        bootstrap=5,
    )
    assert report.pairs == ()
    assert [pair.student for pair in report.others[0].explanations] == ["kd", "skd"]


def test_students_of_one_size_make_no_curve(report):
    assert report.curve is None


# ---- what cannot be said -------------------------------------------------------------------------


def saved(trained, tmp_path: Path, name: str, network, **more) -> Path:
    """A network under the header of the digits' teacher."""
    header = read_header(trained.out / "teacher")[1]
    path = tmp_path / f"{name}.safetensors"
    save_model(
        path,
        network,
        replace(
            header,
            architecture=network.blueprint.architecture,
            arguments=dict(network.blueprint.arguments),
            **more,
        ),
    )
    return path


def fresh(**options):
    return build_network(
        "mlp", num_classes=10, input_shape=(1, 8, 8), options={"hidden": [12], **options}
    )


def test_networks_without_a_vector_before_the_head_keep_the_rest(trained, tmp_path):
    both = Composite([fresh(), fresh()], "mean_probabilities")
    path = saved(trained, tmp_path, "both", both, method="kd", epochs=2)
    report = analyze_gap(trained.out / "teacher", [path], bootstrap=5, deep=True)
    (found,) = report.explanations
    assert found.distance_ranks is None
    assert found.rescaling
    assert found.cka is None
    assert any(
        "nearness of wrong classes of both left out" in warning and "pooled" in warning
        for warning in report.warnings
    )
    alone = analyze_gap(path, bootstrap=5)
    assert alone.explanation.projection is None
    assert [matrix.of for matrix in alone.explanation.relations.matrices] == [
        "probabilities",
        "probabilities",
    ]


def test_a_head_that_is_no_product_is_not_taken_for_one(trained, tmp_path):
    report = analyze_gap(
        trained.out / "teacher",
        [saved(trained, tmp_path, "cosine", fresh(normalised=True))],
        bootstrap=5,
    )
    assert report.explanations[0].distance_ranks is None
    assert any("features times the weights" in warning for warning in report.warnings)


def test_constant_logits_keep_the_gap(trained, tmp_path):
    network = fresh()
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    path = saved(trained, tmp_path, "flat", network)
    report = analyze_gap(trained.out / "teacher", [path], bootstrap=5)
    assert report.pairs[0].at[0].entropy.value > 0
    assert report.explanations[0].rescaling == ()
    assert any("constant" in warning for warning in report.warnings)
    alone = analyze_gap(path, bootstrap=5)
    assert alone.explanation.hypothesis is None
    assert alone.teacher.at[0].entropy.value == pytest.approx(np.log(10))


def arrays(tmp_path: Path, classes: int, tested: list[int]) -> str:
    rng = np.random.default_rng(0)
    y = np.arange(60) % classes
    x = rng.normal(size=(60, 5)).astype(np.float32) + y[:, None]
    keep = np.isin(y, tested)
    path = tmp_path / "arrays.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[keep], y_test=y[keep])
    return str(path)


@pytest.mark.parametrize(
    ("classes", "tested", "reason"),
    [(3, [0, 1], "class 2 (2) has no samples"), (2, [0, 1], "2 classes")],
)
def test_too_few_samples_or_classes_leave_out_what_needs_them(tmp_path, classes, tested, reason):
    small = {**QUICK, "data.path": arrays(tmp_path, classes, tested), "train.batch_size": 20}
    run = train_teacher(model="mlp", data="npz", name="t", out=tmp_path, overrides=small)
    report = analyze_gap(run.run, [run.run], bootstrap=5)
    assert report.explanation.similarity == ()
    assert report.explanation.hypothesis is None
    assert report.explanations[0].calibration is not None
    assert any(reason in warning for warning in report.warnings)
