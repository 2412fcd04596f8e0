"""report.html: one file, no script, nothing fetched; light and dark; readable on a telephone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kdcli import __version__
from kdcli.report import words
from kdcli.report.run import Run
from kdcli.report.sections import Section, provenance
from kdcli.report.verdict import against_labels, best_teacher, gate_sentence, missing_names, on_missing, verdict
from kdcli.results import RunResult


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that the eye should meet first, and what it is."""

    value: str
    label: str
    note: str


def to_html(run: Run, parts: Sequence[Section]) -> str:
    """The report as one HTML document; parts: what `sections` made of the run."""
    return page(
        "report.html.jinja",
        run=run,
        subtitle=_subtitle(run),
        verdict=verdict(run),
        lead=[sentence for sentence in (on_missing(run.summary), against_labels(run)) if sentence],
        gates=[(gate.passed, gate_sentence(gate)) for gate in run.summary.gates] if run.summary else [],
        warnings=run.summary.warnings if run.summary else (),
        tiles=tiles(run.summary) if run.summary else [],
        sections=parts,
        version=run.environment.get("kdcli", __version__),
    )


def page(template: str, **content: Any) -> str:
    """A page from one of our templates; everything that is not Markup is escaped."""
    loader = PackageLoader("kdcli.report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["toml"] = highlighted
    return pages.get_template(template).render(**content)


def _subtitle(run: Run) -> str:
    if run.summary is None:
        return f"kd {run.command}"
    return f"kd {run.command} · {run.summary.method} · {provenance(run.summary)}"


def tiles(summary: RunResult) -> list[Tile]:
    """Accuracy, distance to the teacher, size, certainty and calibration: what there is of them."""
    test = summary.test
    found = [
        Tile(
            words.percent(test.accuracy, test.n),
            "test accuracy",
            f"{words.percent_range(test.accuracy_interval, test.n)}{words.NBSP}%, n = {words.thousands(test.n)}",
        )
    ]
    teacher = best_teacher(summary)
    if teacher and teacher.test:
        level = words.percent(teacher.test.accuracy, teacher.test.n)
        found.append(
            Tile(words.points(test.accuracy - teacher.test.accuracy, test.n), "against the teacher", f"{teacher.architecture} {level}")
        )
    if summary.excluded and summary.excluded.accuracy_interval:
        excluded = summary.excluded
        reach = f"{words.percent_range(summary.excluded.accuracy_interval, excluded.n)}{words.NBSP}%, n = {words.thousands(excluded.n)}"
        found.insert(1, Tile(words.percent(excluded.accuracy, excluded.n), f"on missing {missing_names(excluded)}", reach))
    size_note = f"teacher {words.count(teacher.parameters)}" if teacher else summary.network
    found.append(Tile(words.count(summary.parameters), "parameters", size_note))
    if summary.gap:
        found.append(
            Tile(words.signed(summary.gap.entropy), "entropy gap, nats", f"τ = {words.temperature(summary.gap.temperature)}, raw logits")
        )
    found.append(Tile(words.number(test.ece), "ECE", "15 bins, 0 is perfect"))
    return found


def highlighted(toml: str) -> Markup:
    """TOML with its tables and comments set apart; everything in it is escaped."""
    lines = []
    for line in str(escape(toml)).splitlines():
        marked = re.sub(r"((?:^|\s)#.*)$", r"<i>\1</i>", line)
        lines.append(f"<b>{line}</b>" if line.startswith("[") else marked)
    return Markup("\n".join(lines))  # noqa: S704  escaped above
