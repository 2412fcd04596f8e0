"""The page of a GapReport stands alone, says first what was found, and breaks over nothing that is
missing or badly named.
"""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from kdcli.report.figures.pair import figures_of_report
from kdcli.report.figures.palette import STUDENT, TEACHER, Palette
from kdcli.report.page.gap import to_page
from kdcli.results.gap import GapReport
from kdcli.results.teacher import Hypothesis, TeacherExplanation
from tests.unit.report import fake_gap
from tests.unit.report.page.test_build import Resources

MEGABYTE = 2**20
EVIL = "<b>&\"'</b><script>alert(1)</script>"


def page(report: GapReport) -> str:
    return to_page(report).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def plain(monkeypatch):
    """Pages without their figures, for what is said in words: drawing takes a second or two."""
    monkeypatch.setattr("kdcli.report.page.gap.figures_of_report", lambda _: ())
    return page


def headings(text: str, level: int) -> list[str]:
    return re.findall(rf"<h{level}>(.*?)</h{level}>", text)


@pytest.fixture(scope="module")
def of_a_pair():
    return page(fake_gap.report())


@pytest.fixture(scope="module")
def of_several():
    return tuple(figures_of_report(fake_gap.several()))


def test_a_pair_begins_with_what_was_found_and_ends_with_how(of_a_pair):
    (headline,) = headings(of_a_pair, 1)
    assert headline.startswith("small is 70× smaller and")
    assert headings(of_a_pair, 2) == [
        "Gap to the teacher",
        "Why the student answers differently",
        "What the teacher has to teach",
        "How to reproduce",
    ]
    assert "kd analyze-gap -t runs/large --student runs/small --temperature 1,4" in of_a_pair
    assert of_a_pair.index("<h1>") < of_a_pair.index('class="tiles"') < of_a_pair.index("<svg")


def test_the_verdict_stands_with_its_numbers_and_limits(of_a_pair):
    for expected in (
        "0.830 [0.797, 0.863]",
        "soft from 0.90 on",
        "0.210 [0.189, 0.231]",
        "varied from 0.1 on",
        "n = 360",
        "intervals settle it",
    ):
        assert expected in of_a_pair


@pytest.mark.parametrize(
    ("cv", "e", "effect", "words"),
    [
        (0.005, 0.95, "label smoothing", "they are the same for all images of a class"),
        (0.05, 0.95, "regularisation", "its answers hardly vary within a class"),
        (0.3, 0.5, "regularisation", "its answers vary from image to image but are not soft"),
        (0.3, 0.95, "distillation", "its answers are soft and vary from image to image"),
    ],
)
def test_a_teacher_alone_is_judged_in_plain_words(plain, cv, e, effect, words):
    text = plain(fake_gap.report(students=(), cv=cv, e=e, effect=effect))
    said = {"distillation": "distillation proper"}.get(effect, effect)
    assert headings(text, 1) == [f"Distilling large amounts to {said}: at τ = 9 {words}."]
    assert "gap to the teacher" not in text.lower()


def test_every_figure_has_a_finding_a_sentence_what_it_rests_on_and_words_for_who_cannot_see_it(
    of_several,
):
    for plot in of_several:
        assert plot.title
        assert plot.caption.endswith(".")
        assert not re.search(r"\. [A-Z]", plot.caption), f"{plot.name}: one sentence"
        assert plot.basis.endswith(".")
        assert 'role="img"' in plot.inline
        assert ET.fromstring(plot.inline).get("aria-label") == f"{plot.title}. {plot.caption}"


def test_figures_of_several_teachers_can_stand_on_one_page(of_several):
    found = Resources()
    found.feed("".join(plot.inline for plot in of_several))
    assert len(found.ids) == len(set(found.ids))
    assert len({plot.name for plot in of_several}) == len(of_several)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [100, 250])
def test_all_of_it_stays_small_and_fetches_nothing(classes):
    text = to_page(fake_gap.several(classes))
    assert len(text.encode()) < 3 * MEGABYTE
    found = Resources()
    found.feed(text)
    assert not found.fetched
    assert not found.scripts
    assert len(found.ids) == len(set(found.ids))
    for svg in re.findall(r"<svg .*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)


def test_several_teachers_are_compared_and_then_told_one_by_one(plain):
    text = plain(fake_gap.several())
    assert headings(text, 1) == [
        "Best under large; the largest teacher costs +2.0 pt (within noise: the intervals overlap)."
    ]
    assert headings(text, 2)[:3] == [
        "By size of the teacher",
        "What the teachers have to teach",
        "large: gap to the teacher",
    ]
    assert "huge: what the teacher has to teach" in headings(text, 2)


def test_a_name_cannot_break_the_page_and_a_mathematical_one_is_shown_as_it_is():
    names = ("$x$", "$\\alpha", "a_b", "^2", *(f"{EVIL}{k}" for k in range(6)))
    report = fake_gap.report(label=EVIL, students=(EVIL + "2",), names=names)
    report = replace(report, data=EVIL, warnings=(EVIL,))
    text = to_page(report)
    found = Resources()
    found.feed(text)
    assert found.scripts == 0
    assert "<b>&" not in text
    figures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    for svg in figures:
        ET.fromstring(svg)
    assert {"$x$", "$\\alpha", "a_b"} <= set(re.findall(r"<text[^>]*>([^<]+)<", "".join(figures)))
    assert "mathdefault" not in text


@pytest.mark.parametrize("missing", [None, TeacherExplanation()])
def test_what_is_not_there_is_left_out(plain, missing):
    text = plain(replace(fake_gap.report(), explanation=missing, explanations=()))
    assert headings(text, 2)[0] == "Gap to the teacher"
    assert "Why the student answers differently" not in text


def test_numbers_that_are_none_do_not_stop_the_page():
    report = fake_gap.report()
    nan = replace(report.teacher.at[0].entropy, value=math.nan, low=math.nan, high=math.nan)
    gap = replace(
        report.pairs[0].at[0],
        entropy=nan,
        entropy_by_class=(None, math.nan, *report.pairs[0].at[0].entropy_by_class[2:]),
    )
    pair = replace(report.pairs[0], at=(gap, *report.pairs[0].at[1:]))
    verdict = replace(
        report.explanation.hypothesis, column_cv=math.nan, column_cv_interval=None, settled=None
    )
    assert isinstance(verdict, Hypothesis)
    text = page(
        replace(report, pairs=(pair,), explanation=replace(report.explanation, hypothesis=verdict))
    )
    assert "nan" not in re.sub(r"<svg .*?</svg>", "", text, flags=re.DOTALL).lower().replace(
        "nano", ""
    )


def test_warnings_are_shown(plain):
    assert "<b>Note</b> t-SNE of large left out" in plain(
        replace(fake_gap.report(), warnings=("t-SNE of large left out",))
    )


# ---- colours -------------------------------------------------------------------------------------


def test_a_network_has_one_colour_on_the_page_and_a_marker_where_there_are_more(of_several):
    alone = Palette.of(fake_gap.report())
    assert (alone.teacher("large").colour, alone.student("small").colour) == (TEACHER, STUDENT)
    assert (alone.teacher("large").called, alone.student("small").called) == ("teacher", "student")
    several = Palette.of(fake_gap.several())
    looks = [
        several.teacher("large"),
        several.teacher("huge"),
        several.student("small"),
        several.student("tiny"),
    ]
    assert len({look.colour for look in looks}) == len(looks)
    assert len({look.marker for look in looks[:2]}) == 2
    drawn = {plot.name: plot.svg for plot in of_several}
    for name in ("gap-levels-huge", "hypothesis", "degradation"):
        assert several.teacher("huge").colour in drawn[name]
    assert TEACHER not in drawn["gap-levels-huge"]


def brightness(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_can_be_seen_on_light_and_on_dark_paper():
    from kdcli.report.figures.palette import MUTED, STUDENTS, TEACHERS, THINGS

    for colour in (*TEACHERS, *STUDENTS, *THINGS, MUTED):
        for paper in ("#ffffff", "#14181d"):
            dark, light = sorted((brightness(colour), brightness(paper)))
            assert (light + 0.05) / (dark + 0.05) >= 3.0, colour


def test_ends_of_intervals_are_in_order_on_the_page(of_a_pair):
    reaches = re.findall(r"(−?\d+\.\d+)–(\d+\.\d+) %, n = ", of_a_pair)
    assert reaches
    assert all(float(low) <= float(high) for low, high in reaches)
