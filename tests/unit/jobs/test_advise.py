"""Advice on which teacher to distil: the candidates' order, the verdict of the study, and where
both are shown.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcli import advice
from kdcli.cli.output.gap_screen import screen_lines
from kdcli.jobs import analyze_gap, train_teacher
from kdcli.report.page.gap import to_page
from kdcli.results.intervals import Estimate


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers")
    common = {"report.html": False, "report.probe": 0, "data.val_fraction": 0.2}
    return [
        train_teacher(
            model="cnn-small", data="digits", epochs=epochs, out=out, name=name, overrides=common
        ).run
        for name, epochs in (("early", 1), ("late", 6))
    ]


@pytest.fixture(scope="module")
def report(teachers):
    return analyze_gap(teachers, explain=False, advice=True, split="val", bootstrap=10)


def ordered(monkeypatch, low: float) -> None:
    monkeypatch.setattr(
        advice, "TESTED_ON", replace(advice.TESTED_ON, lead=Estimate(0.2, low, 0.4))
    )


def test_every_teacher_method_and_temperature_is_a_candidate_in_order(report):
    found = report.advice
    assert len(found.candidates) == 2 * 2 * 7
    promises = [one.scores["promise"] for one in found.candidates]
    assert promises == sorted(promises, reverse=True)
    assert {one.n for one in found.candidates} == {report.n}
    assert found.candidates[-1].teacher == "early"


def test_it_is_advice_only_if_the_study_says_so(report, monkeypatch):
    candidates = report.advice.candidates
    ordered(monkeypatch, 0.05)
    first = advice.judged(candidates)
    assert (first.earned, first.best) == (True, candidates[0])
    ordered(monkeypatch, -0.05)
    assert (advice.judged(candidates).earned, advice.judged(candidates).best) == (False, None)


@pytest.mark.parametrize(("low", "said"), [(0.05, "Distil late by "), (-0.05, "No advice: ")])
def test_screen_and_page_say_the_same(report, monkeypatch, low, said):
    ordered(monkeypatch, low)
    judged = replace(report, advice=advice.judged(report.advice.candidates))
    assert any(said in line for line in screen_lines(judged, 100))
    page = to_page(judged)
    assert said in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "--advise" in page


def test_given_temperatures_are_those_that_are_scored(teachers):
    found = analyze_gap(teachers, explain=False, advice=True, temperatures=(3.0,), bootstrap=10)
    assert {one.temperature for one in found.advice.candidates} == {3.0}
    assert any("test images" in warning for warning in found.warnings)
