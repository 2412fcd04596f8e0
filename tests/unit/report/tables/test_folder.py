"""One page over all runs of a folder."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kdcli.report.figures.frontier import Point, on_frontier
from kdcli.report.tables.folder import COLUMNS, build_overview, overview
from kdcli.results.cost import Cost, Latency
from kdcli.results.intervals import Estimate, Interval
from tests.unit.report import fake_run


def timed(parameters: int, milliseconds: float, threads: int = 1) -> Cost:
    seconds = milliseconds / 1000
    found = (Latency("eager", 1, Estimate(seconds, seconds, seconds), 30, "cpu", threads),)
    return Cost(parameters, 10 * parameters, 4 * parameters, found)


def add(folder, name, accuracy, cost=None, **changes):
    size = {} if cost is None else {"parameters": cost.parameters, "cost": cost}
    found = fake_run.summary(name=name, test=fake_run.measures(accuracy), **size, **changes)
    fake_run.write_run(folder / name, result=found, details=fake_run.analysis())


@pytest.fixture
def folder(tmp_path):
    """Three runs on digits, of which `middle` is beaten in both, one on other data."""
    runs = tmp_path / "runs"
    add(runs, "small", 0.90, timed(1_000, 0.1))
    add(runs, "middle", 0.88, timed(5_000, 0.2))
    add(runs, "large", 0.97, timed(100_000, 2.0))
    add(runs, "other", 0.50, timed(1_000, 0.1), data="fashion-mnist")
    return runs


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.links, self.fetched, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"} and "data-value" in values:
            self.rows[-1].append(values["data-value"])
        if tag == "a":
            self.links.append(values["href"])
        self.scripts += tag == "script"
        self.fetched += [values[key] for key in ("src", "xlink:href") if key in values]


def test_every_run_has_a_row_with_a_link_and_the_best_of_each_data_come_first(folder):
    (folder / "large" / "report.html").write_text("")
    page, _ = build_overview(folder)
    assert page == folder / "index.html"
    found = Page(page.read_text())
    _, *rows = found.rows
    assert [row[0] for row in rows] == ["large", "small", "middle", "other"]
    assert {len(row) for row in rows} == {len(COLUMNS) + 1}
    assert found.links == ["large/report.html"], "of the others no page was made"
    assert not found.fetched
    assert found.scripts == 1
    accuracies = [float(row[4]) for row in rows]
    assert accuracies == [0.97, 0.90, 0.88, 0.50]


def test_a_baseline_on_labels_is_not_called_distilled(folder, monkeypatch):
    add(folder, "labels", 0.85, timed(2_000, 0.1), method="none", teachers=())
    seen = []
    monkeypatch.setattr(
        "kdcli.report.tables.folder.frontier", lambda points, **_: seen.append(points)
    )
    overview(folder)
    assert {point.name: point.distilled for point in seen[0]} == {
        "small": True,
        "middle": True,
        "large": True,
        "labels": False,
    }


def test_markdown_has_the_same_rows(folder):
    build_overview(folder, html=False)
    lines = [line for line in (folder / "index.md").read_text().splitlines() if line[:2] == "| "]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "large", "small", "middle", "other",
    ]  # fmt: skip
    assert not (folder / "index.html").exists()
    assert "97.0" in lines[2]


def test_damaged_and_unfinished_runs_are_named_and_left_out(folder):
    (folder / "middle" / "summary.json").write_text("{")
    (folder / "small" / "summary.json").unlink()
    _, found = build_overview(folder)
    assert [row[0].text for row in found.rows] == ["large", "other"]
    damaged, unfinished = found.notes
    assert "middle/summary.json" in damaged
    assert unfinished == f"small is not finished: kd resume {folder / 'small'} goes on"
    for file in ("index.html", "index.md"):
        assert "small is not finished" in (folder / file).read_text()


def test_figures_are_of_data_with_runs_to_compare(folder):
    found = overview(folder).figures
    assert [figure.title for figure in found] == [
        "digits: accuracy against size", "digits: accuracy against latency",
    ]  # fmt: skip
    assert all("small and large" in figure.caption for figure in found)
    assert "cpu, 1\N{NO-BREAK SPACE}thread" in found[1].basis
    assert "mathdefault" not in found[0].svg


def test_latencies_of_other_conditions_are_left_out_of_the_figure(folder):
    add(folder, "elsewhere", 0.99, timed(2_000, 0.01, threads=8))
    by_size, by_latency = overview(folder).figures
    assert "elsewhere" in by_size.caption
    assert "elsewhere" not in by_latency.caption
    assert "1\N{NO-BREAK SPACE}run measured otherwise left out" in by_latency.basis


def test_a_run_without_costs_is_shown_without(tmp_path):
    add(tmp_path, "old", 0.9)
    (row,) = overview(tmp_path).rows
    assert [cell.text for cell in row[8:11]] == ["·", "·", "·"]
    assert overview(tmp_path).figures == ()


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert(1)</script>|*a*"
    add(tmp_path, "a b#c", 0.9, timed(10, 1.0), network=evil)
    add(tmp_path, "plain", 0.8, timed(20, 2.0), network=evil)
    (tmp_path / "a b#c" / "report.html").write_text("")
    page, _ = build_overview(tmp_path)
    found = Page(page.read_text())
    assert found.scripts == 1
    assert found.links == ["a%20b%23c/report.html"]
    assert evil in html.unescape(page.read_text())
    assert r"\|\*a\*" in (tmp_path / "index.md").read_text()


def point(name: str, cost: float, accuracy: float) -> Point:
    return Point(name, cost, accuracy, Interval(accuracy, accuracy), distilled=True)


def test_the_frontier_holds_what_nothing_beats_in_both():
    points = [
        point("cheap", 1, 0.5), point("equal", 1, 0.5), point("beaten", 2, 0.4), point("good", 3, 0.9),
        point("dear", 4, 0.9), point("best", 5, 0.95), point("worse", 5, 0.94),
    ]  # fmt: skip
    names = [each.name for each in on_frontier(points)]
    assert names == ["cheap", "good", "best"]
    for each in points:
        beaten = any(
            other.cost <= each.cost and other.accuracy >= each.accuracy
            and (other.cost, -other.accuracy) != (each.cost, -each.accuracy)
            for other in points
        )  # fmt: skip
        assert beaten == (each.name not in {*names, "equal"})


def test_two_builds_give_the_same_bytes(folder):
    page, _ = build_overview(folder)
    first = page.read_bytes()
    build_overview(folder)
    assert page.read_bytes() == first
    assert not re.search(r"https?://(?!www\.w3\.org/)", first.decode())
    assert replace(overview(folder, draw=False)).figures == ()
