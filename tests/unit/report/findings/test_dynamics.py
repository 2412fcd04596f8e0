"""What was probed along training, as the report tells and draws it."""

from __future__ import annotations

import json
import math
import re

import pytest

from kdcli.report.figures.dynamics import figures_of_dynamics
from kdcli.report.findings.dynamics import course
from kdcli.report.page.build import build
from kdcli.runs.read import Run
from tests.unit.report import fake_run
from tests.unit.report.page.test_build import said

FIGURES = {"along-energy", "along-gap", "along-norm", "along-distance"}


@pytest.fixture(autouse=True)
def _no_other_figures(monkeypatch):
    """Of a run's figures those along training alone: all take seconds."""
    monkeypatch.setattr(
        "kdcli.report.page.build.figures_of_run", lambda run: tuple(figures_of_dynamics(run))
    )


def drawn(folder) -> set[str]:
    return {path.stem for path in (folder / "plots").glob("along-*")}


def labels(folder, name: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)<", (folder / "plots" / f"{name}.svg").read_text())


def write(tmp_path, lines, **more):
    return fake_run.write_run(tmp_path / "run", result=fake_run.summary(), lines=lines, **more)


def test_a_probe_comes_back_as_it_was_written(run_folder):
    run = Run.load(run_folder)
    assert run.stages[0].probe == fake_run.probe(0)
    assert run.epochs[-1].probe == fake_run.probe(1)
    assert [moment.epochs for moment in course(run)] == list(range(31))


def test_the_section_says_from_where_to_where(run_folder):
    text = said(build(run_folder, html=False))
    assert (
        "Mean entropy of the student: 2.300 nats at first, 0.239 at last; that of the "
        "teacher is 0.010."
    ) in text
    assert "| teacher | 99.0 % | 0.010 | 12.30 | 18.0 |" in text
    assert "| student, at first | 10.0 % | 2.300 | 2.30 | 1.0 |" in text
    assert (
        "_At τ = 1 on 143 held-out images: before the first step, and after the last epoch._"
        in text
    )
    assert "KL to its answers" not in text  # of one alone there is nothing to compare


def test_the_figures_show_the_student_beside_its_teacher(run_folder):
    page = said(build(run_folder))
    assert drawn(run_folder) == FIGURES
    assert {"student", "teacher", "entropy, nats · τ = 1", "free energy · τ = 4"} <= set(
        labels(run_folder, "along-energy")
    )
    assert {"raw logits", "as the loss sees them"} <= set(labels(run_folder, "along-gap"))
    assert (
        "Zero is a student as sure as its teacher; above zero it is less sure, below it surer."
        in page
    )
    assert "Dotted" not in page


def test_other_networks_that_learn_have_their_own_curves(tmp_path):
    folder = write(
        tmp_path,
        fake_run.probed(fake_run.epoch_lines(5), others=("slt1", "slt2"), split="train", n=512),
    )
    text = said(build(folder)) + said(folder / "report.md")
    assert {"slt1", "slt2"} <= set(labels(folder, "along-norm"))
    assert {"from the teacher", "from slt1", "from slt2"} <= set(labels(folder, "along-distance"))
    assert (
        "KL to its answers, in nats: at first 2.400 from slt1, 2.400 from slt2 and 0.050 "
        "from the teacher; at last"
    ) in text
    assert "512 training images, not augmented" in text


def test_stages_that_train_other_networks_follow_each_other(tmp_path):
    first = fake_run.probed(fake_run.epoch_lines(3, stage="assistant1"), trained="assistant1")
    folder = write(tmp_path, [*first, *fake_run.probed(fake_run.epoch_lines(4, stage="student"))])
    page = said(build(folder))
    moments = course(Run.load(folder))
    assert [(moment.epochs, moment.probe.trained) for moment in moments] == [
        *((epoch, "assistant1") for epoch in range(4)),
        *((epoch, "student") for epoch in range(3, 8)),
    ]
    assert {"assistant1", "student"} <= set(labels(folder, "along-energy"))
    assert "Dotted: a stage begins." in page
    # since the student's own stage began
    assert "Mean entropy of the student: 2.300 nats at first" in page


def test_a_network_alone_has_no_gap_and_nobody_to_be_near(tmp_path):
    folder = write(
        tmp_path, fake_run.probed(fake_run.epoch_lines(4), trained="network", teacher=None)
    )
    build(folder)
    assert drawn(folder) == {"along-energy", "along-norm"}


def test_a_wide_axis_is_logarithmic_and_said_to_be(tmp_path):
    lines = fake_run.probed(fake_run.epoch_lines(4))
    lines[1]["probe"]["networks"]["student"]["logit_norm"] = 1e6
    lines[1]["probe"]["gaps"][0]["entropy"] = -1e3
    folder = write(tmp_path, lines)
    captions = re.findall("<figcaption>(.*?)</figcaption>", said(build(folder)))
    assert any(re.search(r"Wide axes are logarithmic\.</small>$", caption) for caption in captions)
    assert any(
        re.search(r"Wide axes are logarithmic, beyond ±0\.1\.</small>$", caption)
        for caption in captions
    )
    assert "1e+06" in labels(folder, "along-norm")


@pytest.mark.parametrize("count", [1, 2])
def test_before_the_first_epoch_is_over_there_is_nothing_to_draw(tmp_path, count):
    folder = fake_run.write_run(
        tmp_path / "run", lines=fake_run.probed(fake_run.epoch_lines(4))[:count]
    )
    assert ("Along training" in said(build(folder))) == (count == 2)
    assert len(drawn(folder)) == (4 if count == 2 else 0)


@pytest.mark.parametrize(
    "lines",
    [fake_run.epoch_lines(4), [{**line, "probe": None} for line in fake_run.epoch_lines(4)]],
)
def test_without_a_probe_there_is_no_section(tmp_path, lines):
    folder = write(tmp_path, lines)
    assert "Along training" not in said(build(folder))
    assert not drawn(folder)


def test_what_is_not_a_number_leaves_a_hole(tmp_path):
    lines = fake_run.probed(fake_run.epoch_lines(4))
    for line in lines[1:3]:
        text = json.dumps(line["probe"]["networks"]["student"])
        line["probe"]["networks"]["student"] = json.loads(
            re.sub(r'("(?:entropy|logit_norm|free_energy)": )[^,}]+', r"\1NaN", text)
        )
    folder = write(tmp_path, lines)
    build(folder)
    assert drawn(folder) == FIGURES
    assert math.isnan(Run.load(folder).epochs[0].probe.networks["student"].logit_norm)
