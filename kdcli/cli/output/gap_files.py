"""Files that analyze-gap writes on request: every number as CSV, a page, and the figures."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdcli import files
from kdcli.cli.output import figure_file
from kdcli.results.intervals import Estimate, Interval

if TYPE_CHECKING:
    from kdcli.results.gap import GapReport

HEADER = ("network", "form", "temperature", "class", "quantity", "value", "low", "high", "teacher")
# samples, lists, and what the quantity's name says: they are in --json
_SKIPPED = {"points", "order", "superclass", "standardised", "tsne"}
# columns of a matrix that is written entry by entry, such as CKA's; class by class it is no list of
# scalars
_TAPS = 16


def write_csv(report: GapReport, path: Path) -> None:
    """One line a number, at full precision. class is empty for what is said over all samples;
    teacher is the one compared with.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for one in report.reports:
        for rows in (_responses(one), _pairs(one), _explanations(one)):
            writer.writerows((*row, one.teacher.label) for row in rows)
    if report.curve:
        for row in report.curve.rows:
            writer.writerows(
                (*each, "")
                for each in _walk(
                    row, _Place(row.label, "", report.curve.temperature, "", "curve"), report
                )
            )
    files.write_page(path, buffer.getvalue())


def _responses(report: GapReport) -> Iterator[tuple[object, ...]]:
    for response in (report.teacher, *report.students):
        name = "teacher" if response is report.teacher else response.label
        yield from _walk(response.measures, _Place(name, response.form, "", "", "measures"), report)
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
            for name in (
                "entropy_second_order",
                "free_energy_second_order",
                "entropy_ratio",
                "free_energy_ratio",
                "kl",
            ):
                value = getattr(at, name)
                yield (*head, "", name, "" if value is None else value, "", "")
            yield (*head, "", "agreement", pair.agreement, "", "")
            yield from _by_class(report, head, "entropy_gap", at.entropy_by_class)
            yield from _by_class(report, head, "free_energy_gap", at.free_energy_by_class)


def _estimate(found: Estimate) -> tuple[float, float, float]:
    return (found.value, found.low, found.high)


def _by_class(
    report: GapReport, head: tuple[object, ...], quantity: str, values: tuple[float | None, ...]
) -> Iterator[tuple[object, ...]]:
    for name, value in zip(report.class_names, values, strict=True):
        yield (*head, name, quantity, "" if value is None else value, "", "")


# ---- explanations: whatever their types hold -----------------------------------------------------


class _Place(NamedTuple):
    """The place of a number: the first columns of its line."""

    network: str
    form: str
    temperature: object
    label: str
    quantity: str

    def row(self, value: object, interval: Estimate | Interval | None = None) -> tuple[object, ...]:
        return (*self, value, *((interval.low, interval.high) if interval else ("", "")))


def _explanations(report: GapReport) -> Iterator[tuple[object, ...]]:
    """Every field of the explanations, so that a new one needs no line here."""
    if report.explanation:
        for field in dataclasses.fields(report.explanation):
            if field.name not in _SKIPPED:
                found = getattr(report.explanation, field.name)
                yield from _walk(found, _Place("teacher", "raw", "", "", field.name), report)
    for pair in report.explanations:
        for field in dataclasses.fields(pair):
            if field.name != "student":
                place = _Place(pair.student, "raw", "", "", field.name)
                yield from _walk(getattr(pair, field.name), place, report)


def _walk(value: Any, place: _Place, report: GapReport) -> Iterator[tuple[object, ...]]:
    """Lines of every number and word inside a value."""
    if isinstance(value, Estimate):
        yield place.row(value.value, value)
    elif isinstance(value, bool | int | float | str):
        yield place.row(value)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _walk(item, _within(place, number, item, value, report), report)
    elif dataclasses.is_dataclass(value):
        yield from _fields(value, place, report)


def _fields(value: Any, place: _Place, report: GapReport) -> Iterator[tuple[object, ...]]:
    # a fitted temperature is a result
    if getattr(value, "temperature", None) is not None and not hasattr(value, "edge"):
        place = place._replace(temperature=value.temperature)
    for field in dataclasses.fields(value):
        item, interval = getattr(value, field.name), getattr(value, f"{field.name}_interval", None)
        told = (
            place.temperature != "" and field.name == "temperature" and not hasattr(value, "edge")
        )
        if told or isinstance(item, Interval) or field.name in _SKIPPED or _is_matrix(item):
            continue
        inner = place._replace(quantity=f"{place.quantity}.{field.name}")
        if interval is not None:
            yield inner.row(item, interval)
        elif field.name in {"value", "difference"} and isinstance(
            getattr(value, "interval", None), Interval
        ):
            yield inner.row(item, value.interval)
        else:
            yield from _walk(item, inner, report)


def _within(
    place: _Place, number: int, item: Any, items: tuple[Any, ...], report: GapReport
) -> _Place:
    """Where an entry of a list stands: at its class or temperature, or by what it is of, or else by
    number.
    """
    if hasattr(item, "number"):
        return place._replace(
            label=report.class_names[item.number], quantity=place.quantity.removesuffix(".by_class")
        )
    if place.quantity.endswith(".by_class") and len(items) == len(report.class_names):
        return place._replace(label=report.class_names[number])
    if hasattr(item, "standardised"):
        return place._replace(
            quantity=f"{place.quantity}.{item.of}{'.standardised' if item.standardised else ''}"
        )
    if hasattr(item, "top_k"):
        return place._replace(
            quantity=f"{place.quantity}.{item.of}{f'.top{item.top_k}' if item.top_k else ''}"
        )
    if getattr(item, "temperature", None) is not None or len(items) == 1:
        return place
    return place._replace(quantity=f"{place.quantity}.{number}")


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and bool(value)
        and isinstance(value[0], tuple)
        and len(value[0]) > _TAPS
    )


# ---- page and figures ----------------------------------------------------------------------------


def write_page(report: GapReport, path: Path) -> None:
    """A page that stands alone: verdict, figures, numbers."""
    from kdcli.report.page.gap import to_page

    files.write_page(path, to_page(report))


def write_plots(report: GapReport, folder: Path) -> tuple[Path, ...]:
    """Draws every figure of a report, each as SVG and as PNG, and a page that shows them over their
    captions.
    """
    from kdcli.report.figures.pair import figures_of_report
    from kdcli.report.figures.svg import captions

    paths, drawn = [], []
    for plot in figures_of_report(report):
        drawn.append(plot)
        paths += [folder / f"{plot.name}.svg", folder / f"{plot.name}.png"]
        for path in paths[-2:]:
            figure_file.write(plot, path)
    paths.append(folder / "README.md")
    files.write_page(paths[-1], captions(drawn))
    return tuple(paths)
