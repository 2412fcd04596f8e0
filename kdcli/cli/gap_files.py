"""What analyze-gap writes on request: every number as CSV, and the figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.files import write_text

if TYPE_CHECKING:
    from kdcli.results import Estimate, GapReport

HEADER = ("network", "form", "temperature", "class", "quantity", "value", "low", "high")


def write_csv(report: GapReport, path: Path) -> None:
    """One line a number, at full precision. class is empty for the mean over all samples."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(_responses(report))
    writer.writerows(_pairs(report))
    write_text(path, buffer.getvalue())


def _responses(report: GapReport) -> Iterator[tuple[object, ...]]:
    for response in (report.teacher, *report.students):
        name = "teacher" if response is report.teacher else response.label
        for at in response.at:
            head = (name, response.form, at.temperature)
            yield (*head, "", "entropy", *_estimate(at.entropy))
            yield (*head, "", "free_energy", *_estimate(at.free_energy))
            yield from _by_class(report, head, "entropy", at.entropy_by_class)
            yield from _by_class(report, head, "free_energy", at.free_energy_by_class)


def _pairs(report: GapReport) -> Iterator[tuple[object, ...]]:
    for pair in report.pairs:
        for at in pair.at:
            head = (pair.student, pair.form, at.temperature)
            yield (*head, "", "entropy_gap", *_estimate(at.entropy))
            yield (*head, "", "free_energy_gap", *_estimate(at.free_energy))
            for name in ("entropy_second_order", "free_energy_second_order", "kl"):
                yield (*head, "", name, getattr(at, name), "", "")
            yield (*head, "", "agreement", pair.agreement, "", "")
            yield from _by_class(report, head, "entropy_gap", at.entropy_by_class)
            yield from _by_class(report, head, "free_energy_gap", at.free_energy_by_class)


def _estimate(found: Estimate) -> tuple[float, float, float]:
    return (found.value, found.low, found.high)


def _by_class(report: GapReport, head: tuple[object, ...], quantity: str, values: tuple[float | None, ...]) -> Iterator[tuple[object, ...]]:
    for name, value in zip(report.class_names, values, strict=True):
        yield (*head, name, quantity, "" if value is None else value, "", "")


def write_plots(report: GapReport, folder: Path) -> tuple[Path, ...]:
    """Draw the figures that a run's report has of its gap, as SVG."""
    from kdcli.report.gap_plots import draw

    paths = []
    for plot in draw(report):
        paths.append(folder / f"{plot.name}.svg")
        write_text(paths[-1], plot.svg)
    return tuple(paths)
