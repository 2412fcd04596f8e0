"""The screen of a run but for its progress: the first lines, and the result."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli import __version__, formatting, trust
from kdcli.cli.console import Environment, Part
from kdcli.cli.text import columns, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kdcli.jobs.events import Prepared
    from kdcli.results.gap import GapAt
    from kdcli.results.measures import GateResult, Measures
    from kdcli.results.run import RunResult, TeacherSummary
    from kdcli.tasks import Headline, Task

_ARXIV = re.compile(r"arXiv:\d{4}\.\d{4,5}")
_OPTIONS_WIDTH = 47  # what is left of 80 columns beside the label, the method's name and its source


# ---- before --------------------------------------------------------------------------------------


def show_prepared(env: Environment, prepared: Prepared) -> None:
    """The first lines of a run: everything that decides what it will be, each automatic choice with
    its reason.
    """
    env.progress(
        ("kd ", "bold"), f"{__version__} · {prepared.command} · run ", (prepared.run, "bold")
    )
    networks = _networks(prepared)
    width = max(
        len(name) for name in (*(row[1] for row in networks), prepared.method, prepared.data)
    )
    for line in columns([(row[0], row[1].ljust(width), *row[2:]) for row in networks], "<<><<"):
        env.progress(line)
    if prepared.command == "distill" or prepared.method != "none":
        env.progress(
            f"  method   {prepared.method:<{width}}  {_options(prepared, _OPTIONS_WIDTH - width)}"
        )
    env.progress(f"  data     {prepared.data:<{width}}  {_data(prepared)}")
    env.progress(f"  device   {_device(prepared)} · {prepared.precision}")
    for reason in dict.fromkeys(
        reason
        for reason in (prepared.device_reason, prepared.precision_reason, *prepared.choices)
        if reason
    ):
        _labelled(env, "", reason, "dim")
    rate = f"{prepared.optimiser} lr {prepared.lr:g} → {prepared.schedule}"
    env.progress(
        f"  train    {formatting.plural(prepared.epochs, 'epoch')} × "
        f"{formatting.plural(prepared.batches, 'step')} · batch "
        f"{prepared.batch_size} · {rate}"
    )
    for note in prepared.notes:
        _labelled(env, "note", note)
    for warning in prepared.warnings:
        _labelled(env, "warning", warning, "yellow")
    if prepared.resumed_at:
        _labelled(env, "resumed", f"at {prepared.resumed_at}")
    env.progress()


def _labelled(env: Environment, label: str, text: str, style: str = "") -> None:
    """A line with a label, wrapped so that what follows stays clear of the labels."""
    for line in textwrap.wrap(
        text,
        env.width - 1,
        initial_indent=f"  {label:<9}",
        subsequent_indent=" " * 11,
        break_long_words=False,
    ):
        env.progress((line, style))


def _networks(prepared: Prepared) -> list[tuple[str, ...]]:
    """Rows of the teachers and the student; of the network alone where nobody teaches it."""
    headline = _task(prepared.data).headline
    student = (prepared.network, formatting.count(prepared.parameters))
    if not prepared.teachers:
        return [
            (
                "model  " if prepared.command == "train-teacher" else "student",
                *student,
                "parameters",
                "",
            )
        ]
    rows = [
        (
            "teacher",
            teacher.architecture,
            formatting.count(teacher.parameters or None),
            headline.shown(teacher.test) if teacher.test else formatting.MISSING,
            "",
        )
        for teacher in prepared.teachers
    ]
    ratio = max(teacher.parameters for teacher in prepared.teachers) / prepared.parameters
    size = (
        ""
        if not ratio  # ready-made answers have no size
        else f"{formatting.times(ratio)} smaller"
        if ratio > 1
        else f"{formatting.times(1 / ratio)} larger"
        if ratio < 1
        else "same size"
    )
    return [*rows, ("student", *student, "", size)]


def _options(prepared: Prepared, room: int) -> str:
    """As many of the method's options as the line holds, and its paper."""
    from kdcli import catalog

    shown = ""
    for name, value in prepared.method_options.items():
        more = f"{shown} · {name} {option(value)}" if shown else f"{name} {option(value)}"
        if value not in (None, (), []) and len(more) <= room:
            shown = more
    source = _ARXIV.search(catalog.entry("method", prepared.method).doc)
    return "   ".join(part for part in (shown, source.group() if source else "") if part)


def _task(data: str) -> Task:
    from kdcli import tasks

    return tasks.of_data(data)


def _data(prepared: Prepared) -> str:
    task = _task(prepared.data)
    splits = ((prepared.train, "train"), (prepared.val, "val"), (prepared.test, "test"))
    counts = [f"{formatting.thousands(size)} {name}" for size, name in splits if size]
    if not task.pictures:
        words = f"{formatting.thousands(prepared.classes)} words"
        of = words if not task.fixed_shape else f"{prepared.classes} classes"
        return " · ".join([*counts, f"{task.sample}s of {of}"])
    return " · ".join(
        [*counts, f"{prepared.classes} classes", "×".join(map(str, prepared.input_shape))]
    )


def _device(prepared: Prepared) -> str:
    ranks = f" · {prepared.devices} ranks" if prepared.devices > 1 else ""
    device = prepared.device if prepared.devices == 1 else prepared.device.partition(":")[0]
    name = prepared.device_name
    return f"{device if not name or name == prepared.device else f'{device} {name}'}{ranks}"


# ---- after ---------------------------------------------------------------------------------------


def show_result(env: Environment, result: RunResult) -> None:
    """Shows a run's result on stdout; on stderr its warnings, its gates, and where to go next."""
    env.report()
    if result.teachers:
        for line in _comparison(result):
            env.answer(line)
    else:
        chosen = f"n = {formatting.thousands(result.test.n)}, {result.test.selected} epoch"
        entropy = f"mean entropy {formatting.number(result.test.entropy)} nats"
        headline = _task(result.data).headline
        env.answer(
            ("✓", "green"),
            (
                f" test {_level(headline, result.test)}  ({chosen})   "
                f"{entropy}   "
                f"{formatting.duration(result.wall_seconds)}"
            ),
        )
    if (told := _without_labels(result)) is not None:
        env.answer(told)
    for parts in _missing(result):
        env.answer(*parts)
    if (calibrated := _calibrated(result)) is not None:
        env.answer(calibrated)
    for warning in result.warnings:
        env.report(("warning: ", "yellow"), warning)
    show_gates(env, result.gates, after_a_miss="checkpoint and report are complete")
    for line in columns(_pointers(result)):
        env.report(line)


def _level(headline: Headline, test: Measures) -> str:
    """How good a network is on its own, in a few words."""
    if test.labelled is None and test.agreement is None:
        return "images have no labels"
    return f"{headline.called(test)} {headline.shown(test)}"


def _without_labels(result: RunResult) -> str | None:
    """That images have no labels, and how far the student answers as its teacher does."""
    bare = result.test.labelled is None
    said = [
        *([formatting.plural(result.unlabelled, "training image")] if result.unlabelled else []),
        *([formatting.plural(result.test.n, "test image")] if bare else []),
    ]
    if result.agreement is None or not said:
        return None
    return (
        f"  {' and '.join(said)} without a label · "
        f"{formatting.percent(result.agreement, result.test.n)} of the test images answered as "
        "by the teacher"
    )


def _comparison(result: RunResult) -> list[str]:
    several = len(result.teachers) > 1
    headline = _task(result.data).headline
    if result.test.labelled is None:
        return _without_accuracies(result)
    head = ("", headline.heading, "NLL", "ECE", "entropy", "free energy", "")
    rows: list[tuple[str, ...]] = [head]
    rows += [
        _measured(f"teacher {place}" if several else "teacher", teacher.test, headline)
        for place, teacher in enumerate(result.teachers, 1)
    ]
    rows.append(_measured("student", result.test, headline))
    rows += [_gap_row(label, result, gap, remark) for label, gap, remark in _gaps(result)]
    return [_selected(result), *columns(rows, "<>>>>><")]


def _selected(result: RunResult) -> str:
    return (
        f"  test split · n = {formatting.thousands(result.test.n)} · {result.test.selected} epoch"
    )


def _without_accuracies(result: RunResult) -> list[str]:
    """The same where the test split has no labels: agreement, entropies and their gap."""
    rows = [("", "agreement", "entropy", "free energy", "")]
    several = len(result.teachers) > 1
    networks = [
        (f"teacher {place}" if several else "teacher", teacher.test)
        for place, teacher in enumerate(result.teachers, 1)
    ]
    for label, test in (*networks, ("student", result.test)):
        if test is None:
            rows.append((label, *(formatting.MISSING,) * 3, ""))
            continue
        agreement = "" if test is not result.test else formatting.percent(test.agreement, test.n)
        energies = formatting.number(test.entropy), formatting.number(test.free_energy, 2)
        rows.append((label, agreement, *energies, ""))
    rows += [(label, "", *_gap_numbers(gap, remark)) for label, gap, remark in _gaps(result)]
    return [_selected(result), *columns(rows, "<>>><")]


def _calibrated(result: RunResult) -> str | None:
    """What the fitted temperature did, or why there is none; None where none was to be."""
    folded = result.calibration
    if folded is None:
        return None
    if folded.temperature is None:
        return f"  logits as trained, no temperature fitted: {folded.why_not}"
    return (
        f"  logits divided by {formatting.measured_temperature(folded.temperature)} (fitted on "
        f"{formatting.plural(folded.n, 'held-out image')}): "
        f"NLL {formatting.number(folded.nll_before)} → {formatting.number(folded.nll_after)}, "
        f"ECE {formatting.number(folded.ece_before)} → {formatting.number(folded.ece_after)}"
    )


_MOST_MISSING = 4  # lines


def _missing(result: RunResult) -> Iterator[tuple[Part, ...]]:
    """How test images of classes without training images are answered: a line a class, or one for
    all of them.
    """
    if result.excluded is None:
        return
    teacher = "teacher" if result.teachers else "reference"
    every = result.excluded.classes
    single = len(every) <= _MOST_MISSING
    for label, item in (
        [(f"class {item.name}", item) for item in every]
        if single
        else [(f"{len(every)} classes", result.excluded)]
    ):
        if item.accuracy is None or item.accuracy_interval is None:
            yield (f"  missing {label}: no test image shows it",)
            continue
        beside = (
            f" · {teacher} {formatting.percent(item.teacher_accuracy, item.n)}"
            if item.teacher_accuracy is not None
            else ""
        )
        reach = (
            f" ({formatting.percent_range(item.accuracy_interval, item.n)}, n = "
            f"{formatting.thousands(item.n)})"
        )
        yield (
            ("  missing ", "bold"),
            f"{label}: accuracy ",
            (formatting.percent(item.accuracy, item.n), "bold"),
            f"{reach}{beside}",
        )


def _measured(label: str, measures: Measures | None, headline: Headline) -> tuple[str, ...]:
    if measures is None:
        return (label, *(formatting.MISSING,) * 5, "")
    entropies = (formatting.number(measures.entropy), formatting.number(measures.free_energy, 2))
    return (
        label,
        headline.shown(measures),
        formatting.number(measures.nll),
        formatting.number(measures.ece),
        *entropies,
        "",
    )


def _gaps(result: RunResult) -> Iterator[tuple[str, GapAt, str]]:
    """The gap that gates use and, where the method's loss sees other logits, that of these: each
    with its label and a remark.
    """
    if result.gap is None:
        return
    yield "gap", result.gap, "raw logits"
    for gap in result.gaps:
        if gap.aligned and gap.temperature == result.gap.temperature:
            yield "aligned", gap, "in the loss"
            return


def _gap_numbers(gap: GapAt, remark: str) -> tuple[str, str, str]:
    return (
        formatting.signed(gap.entropy),
        formatting.signed(gap.free_energy, 2),
        f"(τ = {gap.temperature:g}, {remark})",
    )


def _gap_row(label: str, result: RunResult, gap: GapAt, remark: str) -> tuple[str, ...]:
    first: TeacherSummary = result.teachers[0]
    known = first.test is not None and len(result.teachers) == 1 and not gap.aligned
    accuracy = (
        _task(result.data).headline.difference(result.test, first.test)
        if known and first.test is not None
        else ""
    )
    return (
        label,
        accuracy,
        "",
        "",
        *_gap_numbers(gap, remark),
    )


def show_gates(env: Environment, gates: tuple[GateResult, ...], *, after_a_miss: str = "") -> None:
    """One line per threshold, with the sign of how the limit compares, and whose value it is where
    there are several.
    """
    from kdcli.report.findings.run import gate_digits

    for gate in gates:
        lower = gate.at_least
        sign = ("≤" if lower else "≥") if gate.passed else (">" if lower else "<")
        mark = ("✓", "green") if gate.passed else ("✗", "bold red")
        surely = "  (95 % sure)" if gate.confident and gate.name != "max_latency_ms" else ""
        owner = f"{surely}  ({gate.subject})" if gate.subject else surely
        digits = gate_digits(gate, gate.limit)
        limit, value = formatting.set_apart(gate.limit, gate.value, digits)
        tail = f"    {after_a_miss}" if after_a_miss and not gate.passed else ""
        env.report(
            mark,
            (f" gate {gate.name.replace('_', '-')} {limit} {sign} {value}{owner}{tail}"),
        )


def _pointers(result: RunResult) -> list[tuple[str, ...]]:
    html = Path(result.run) / "report.html"
    report = str(html if html.exists() else html.with_suffix(".md"))
    if result.command == "train-teacher":
        return [
            ("teacher", result.checkpoint),
            ("report", report),
            ("next", _distil_command(result)),
        ]
    named = (
        result.network,
        result.method,
        result.data,
        *(teacher.architecture for teacher in result.teachers),
    )
    gap = f"kd analyze-gap --student {result.run}{trust.option(*named)}"
    # it compares checkpoints, and a teacher that was named is none
    taught = bool(result.teachers) and all(teacher.sha256 for teacher in result.teachers)
    after = [("next", gap)] if taught else []
    return [("report ", f"{report}          {formatting.duration(result.wall_seconds)}"), *after]


def _distil_command(result: RunResult) -> str:
    from kdcli import catalog

    known = catalog.entries("model")
    smaller = known[result.network].facts.get("smaller") if result.network in known else None
    end = trust.option(result.network, result.data)
    return f"kd distill --teacher {result.run} --student {smaller or 'NAME'}{end}"
