"""What a run's page explains is what analyze-gap says of its checkpoints; it changes no number of
the run and never costs one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdcli.jobs import analyze_gap, distill, train_teacher
from kdcli.jobs.measure import explanations, gap_report
from kdcli.jobs.train.rounding import DIGITS
from kdcli.runs.read import Run
from tests.unit.jobs.conftest import QUICK

EXPLAINED = {**QUICK, "report.html": True}


@pytest.fixture(scope="module", autouse=True)
def _without_figures():
    """Figures have tests of their own, and take longer than the networks here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcli.report.page.build.figures_of_run", lambda _: ())
        yield


def train(out: Path, **overrides) -> Run:
    run = train_teacher(
        model="mlp", data="digits", name="t", out=out, overrides={**EXPLAINED, **overrides}
    )
    return Run.load(run.run)


def learn(out: Path, *teachers: Path, method: str = "kd", **overrides) -> Run:
    names = [str(teacher) for teacher in teachers]
    given = {**EXPLAINED, "student.hidden": [12], **overrides}
    return Run.load(
        distill(
            teacher=names[0] if len(names) == 1 else names,
            method=method,
            student="mlp",
            name=method,
            out=out,
            overrides=given,
        ).run
    )


@pytest.fixture(scope="module")
def student(trained, tmp_path_factory) -> Run:
    return learn(tmp_path_factory.mktemp("explained"), trained.out / "teacher")


def test_a_student_s_page_says_what_analyze_gap_says(student, trained):
    found = student.analysis.gap
    expected = analyze_gap(trained.out / "teacher", [student.path])
    assert found.pairs == expected.pairs
    assert (found.teacher.at, found.students[0].at) == (
        expected.teacher.at,
        expected.students[0].at,
    )
    mine, theirs = found.explanation, expected.explanation
    assert mine.hypothesis == theirs.hypothesis
    assert (mine.similarity, mine.calibration) == (theirs.similarity, theirs.calibration)
    assert mine.projection.spread == theirs.projection.spread
    drawn, whole = mine.relations.matrices, theirs.relations.matrices
    assert [matrix.of for matrix in drawn] == [matrix.of for matrix in whole]
    assert drawn[-1].of == "weights"
    assert drawn[1].values[0] == pytest.approx(whole[1].values[0], abs=1e-4)  # rounded
    (pair,), (other,) = found.explanations, expected.explanations
    for part in ("rescaling", "distance_ranks", "calibration"):
        assert getattr(pair, part) == getattr(other, part)
    for ratio in ("parameter_ratio", "macs_ratio"):
        assert getattr(pair.capacity, ratio) == getattr(other.capacity, ratio)
    measured = (student.summary.cost.latencies, student.summary.teachers[0].cost)
    assert (pair.capacity.student.latencies, pair.capacity.teacher) == measured
    assert pair.differences[0].mean == other.differences[0].mean
    page = (student.path / "report.html").read_text()
    assert "Why the student answers differently" in page
    assert "What the teacher has to teach" in page


def test_a_network_trained_on_labels_says_what_it_would_have_to_teach(tmp_path):
    run = train(tmp_path)
    report = run.analysis.gap
    assert (report.students, report.pairs, report.explanations) == ((), (), ())
    assert report.teacher.measures == run.summary.test
    assert report.temperatures == explanations.PROFILE
    assert report.explanation.hypothesis.effect in {
        "distillation",
        "regularisation",
        "label smoothing",
    }
    assert run.summary.gap is None
    assert "What it would have to teach" in (run.path / "report.html").read_text()


@pytest.mark.parametrize("switch", ["report.explain", "report.html"])
def test_it_can_be_left_out_and_changes_no_number(student, trained, tmp_path, switch):
    plain = learn(tmp_path, trained.out / "teacher", **{switch: False})
    assert (plain.analysis.gap.explanation, plain.analysis.gap.explanations) == (None, ())
    assert plain.summary.test == student.summary.test
    assert plain.analysis.gap.pairs[0].at == student.analysis.gap.pairs[0].at
    assert plain.analysis.confusion == student.analysis.confusion


def test_teachers_that_answer_as_one_have_no_features(trained, tmp_path):
    run = learn(tmp_path, trained.out / "teacher", trained.out / "skd")
    report = run.analysis.gap
    assert report.explanation.hypothesis
    assert report.explanation.projection is None
    assert {matrix.of for matrix in report.explanation.relations.matrices} == {"probabilities"}
    assert report.warnings[0].startswith(
        "mean of 2 teachers: no features and no last layer in common"
    )
    assert report.warnings[0] in (run.path / "report.html").read_text()


def test_an_explanation_that_breaks_does_not_break_the_run(trained, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("somebody's own network")

    monkeypatch.setattr(gap_report, "explain_teacher", broken)
    run = learn(tmp_path, trained.out / "teacher")
    assert run.summary.gap is not None
    assert run.analysis.gap.explanation is None
    assert (
        "the explanations are left out: RuntimeError: somebody&#39;s own network"
        in (run.path / "report.html").read_text()
    )


def test_what_is_only_drawn_takes_little_room(student):
    stored = json.loads((student.path / "analysis.json").read_text())
    values = stored["gap"]["explanation"]["relations"]["matrices"][0]["values"]
    assert all(value == round(value, DIGITS) for row in values for value in row)
    assert (student.path / "analysis.json").stat().st_size < 200_000


def test_matrices_of_too_many_classes_are_said_to_be_left_out(trained, monkeypatch):
    monkeypatch.setattr(explanations, "MATRIX_CLASSES", 9)
    report = analyze_gap(trained.out / "teacher", [trained.out / "kd"], bootstrap=5)
    (warning,) = report.warnings
    assert warning.startswith("matrices of 10 classes are not kept or drawn")
    assert warning.endswith("up to 9 classes")
    assert all(matrix.values is None for matrix in report.explanation.relations.matrices)
    assert report.explanations[0].differences[0].teacher is None
    assert report.explanations[0].differences[0].mean > 0
