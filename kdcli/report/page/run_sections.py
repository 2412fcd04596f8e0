"""The sections of a run's report, in order: report.html and report.md are two renderings of them.

what was gained, accuracy beside the teacher, missing classes, mistakes, gap, where in a text, what
explains it, what the teacher has to teach, calibration, confusion, curves, what was probed along
training, recipe, environment, how to reproduce. A section without data is left out, never shown
empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from kdcli import formatting, tasks
from kdcli.report.figures.run import teacher_first
from kdcli.report.figures.svg import Figure
from kdcli.report.findings.dynamics import course, images, rows, sentences
from kdcli.report.findings.run import (
    best_teacher,
    on_temperature,
    overlap_note,
    provenance,
    why,
    without_labels,
)
from kdcli.report.page import gap_sections, text_section
from kdcli.report.page.cost_section import costs
from kdcli.report.page.gap_sections import NUMBERS
from kdcli.report.page.missing_section import missing
from kdcli.report.page.mistakes_section import mistakes
from kdcli.report.page.parts import Grid, Section
from kdcli.report.page.reproduce_section import environment, recipe, reproduce
from kdcli.results.measures import Measures, share_of
from kdcli.results.run import RunResult
from kdcli.runs.read import Run
from kdcli.tasks import Task


def sections(run: Run, plots: Sequence[Figure] = ()) -> tuple[Section, ...]:
    """Everything after the verdict and the gates, in order."""
    makers: tuple[Callable[[Run, tuple[Figure, ...]], Section | None], ...] = (
        costs,
        accuracy,
        missing,
        mistakes,
        gap,
        words,
        pair,
        teacher,
        calibration,
        confusion,
        curves,
        along,
        recipe,
        environment,
        reproduce,
    )
    made = (
        make(run, tuple(plot for plot in plots if plot.section == make.__name__)) for make in makers
    )
    said, as_they_are = _task(run).worded, {"recipe", "environment", "reproduce"}
    return tuple(
        section if section.key in as_they_are else section.worded(said)
        for section in made
        if section is not None
    )


# ---- accuracy ------------------------------------------------------------------------------------


def accuracy(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """The network beside its teachers, every measure of the test split, with n, split and which
    epoch.
    """
    summary = run.summary
    if summary is None:
        return None
    text = (
        [f"Beside its teacher: {overlap_note(summary.test, best.test)}."]
        if (best := best_teacher(summary)) and best.test and summary.test.labelled
        else []
    )
    if summary.test.labelled is None:
        text.append(without_labels(summary))
    elif run.baseline:
        text.append(
            f"Beside {run.baseline.name}, the same recipe without a teacher: "
            f"{overlap_note(summary.test, run.baseline.test)}."
        )
    if summary.val:
        text.append(_validation(summary.val, summary))
    title = "Accuracy" if summary.test.labelled else "Answers to the test split"
    return Section("accuracy", title, tuple(text), (_measures_grid(run, summary),), plots)


def _validation(val: Measures, summary: RunResult) -> str:
    folded = summary.calibration is not None and summary.calibration.temperature is not None
    uses = (("the epoch", val.selected == "best"), ("the temperature", folded))
    chosen = " and ".join(what for what, done in uses if done) or "nothing"
    verb = "were" if " and " in chosen else "was"
    task = tasks.of_data(summary.data)
    level = (
        formatting.percent(val.accuracy, val.n)
        if task.headline.path == "accuracy" and val.accuracy is not None
        else "they have no labels"
        if val.accuracy is None and val.agreement is None
        else f"{task.headline.called(val)} {task.headline.shown(val)}"
    )
    return (
        f"On {formatting.plural(val.n, task.sample)} held out of the training set: "
        f"{level}; {chosen} {verb} chosen on them."
    )


def _measures_grid(run: Run, summary: RunResult) -> Grid:
    own = "student" if summary.command == "distill" else "network"
    networks = [
        (f"teacher {teacher.architecture}", teacher.parameters, teacher.test)
        for teacher in summary.teachers
    ]
    if run.baseline:
        networks.append(("labels only", run.baseline.parameters, run.baseline.test))
    networks.append((f"{own} {summary.network}", summary.parameters, summary.test))
    rows = [("parameters", *(formatting.count(size or None) for _, size, _ in networks))]
    rows += [
        (name, *(say(test) if test else formatting.MISSING for _, _, test in networks))
        for name, say in _ROWS
        if (tasks.of_data(summary.data).compares_classes or name not in _OF_CLASSES)
        and any(say(test) != formatting.MISSING for _, _, test in networks if test)
    ]
    headline = tasks.of_data(summary.data).headline
    if headline.path != "accuracy":
        own_row = (headline.shown(test) if test else formatting.MISSING for _, _, test in networks)
        rows.insert(1, (headline.heading, *own_row))
    best = best_teacher(summary)
    columns = ("", *(name for name, _, _ in networks))
    if best and best.test:
        columns = (*columns, "student − teacher")
        difference = _differences(summary, best.parameters, best.test)
        difference[headline.heading] = headline.difference(summary.test, best.test)
        rows = [(*row, difference.get(row[0], "")) for row in rows]
    return Grid(columns, tuple(rows), provenance(summary))


_ROWS: tuple[tuple[str, Callable[[Measures], str]], ...] = (
    ("accuracy", lambda test: formatting.percent(test.accuracy, test.n)),
    ("agreement with the teacher", lambda test: formatting.percent(test.agreement, test.n)),
    ("95 % interval, %", lambda test: formatting.percent_range(test.accuracy_interval, test.n)),
    (
        "balanced accuracy",
        lambda test: formatting.percent(test.balanced_accuracy, test.n),
    ),
    ("macro-F1", lambda test: formatting.number(test.macro_f1)),
    ("top-5 accuracy", lambda test: formatting.percent(test.top5, test.n)),
    ("NLL, nats", lambda test: formatting.number(test.nll)),
    ("ECE", lambda test: formatting.number(test.ece)),
    ("entropy, nats", lambda test: formatting.number(test.entropy)),
    ("free energy", lambda test: formatting.number(test.free_energy, 2)),
    ("logit norm", lambda test: formatting.number(test.logit_norm, 1)),
)


# what is a mean over classes
_OF_CLASSES = ("balanced accuracy", "macro-F1")


def _differences(summary: RunResult, teacher_size: int, teacher: Measures) -> dict[str, str]:
    """Student minus teacher by row, but for the size, which is a ratio."""
    student = summary.test
    top5 = _less(student.top5, teacher.top5)
    ratio = teacher_size / summary.parameters
    return {
        "parameters": ""
        if not ratio  # ready-made answers have no size
        else f"{formatting.times(ratio)} smaller"
        if ratio >= 1
        else f"{formatting.times(1 / ratio)} larger",
        "accuracy": formatting.points(_less(student.accuracy, teacher.accuracy), student.n),
        "balanced accuracy": formatting.points(
            _less(student.balanced_accuracy, teacher.balanced_accuracy), student.n
        ),
        "macro-F1": formatting.signed(_less(student.macro_f1, teacher.macro_f1)),
        "top-5 accuracy": formatting.points(top5, student.n),
        "NLL, nats": formatting.signed(_less(student.nll, teacher.nll)),
        "ECE": formatting.signed(_less(student.ece, teacher.ece)),
        "entropy, nats": formatting.signed(student.entropy - teacher.entropy),
        "free energy": formatting.signed(student.free_energy - teacher.free_energy, 2),
        "logit norm": formatting.signed(student.logit_norm - teacher.logit_norm, 1),
    }


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def restrictions(run: Run) -> str:
    """What the recipe took away from the training set, in a phrase; nothing where it took
    nothing.
    """
    data = run.recipe.get("data", {})
    excluded = run.summary.excluded if run.summary else None
    names = (
        [item.name for item in excluded.classes]
        if excluded
        else [str(item) for item in data.get("exclude_classes", ())]
    )
    said = [f"no image of class {formatting.listed(names)}"] if names else []
    if data.get("per_class"):
        way = {
            "entropy": "highest entropy",
            "entropy-ascending": "lowest entropy",
            "stratified": "evenly over the entropy",
        }
        rank = (
            f"{way.get(data.get('select'))} of the teacher's soft labels at τ = "
            f"{formatting.temperature(data.get('select_temperature', 9.0))}"
        )
        said.append(
            f"{formatting.plural(data['per_class'], 'image')} a class, "
            f"{rank if data.get('select') in way else 'at random'}"
        )
    return "; ".join(said)


# ---- curves --------------------------------------------------------------------------------------


def curves(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """How training went."""
    if not run.epochs:
        return None
    last = run.epochs[-1]
    seconds = (
        run.summary.wall_seconds if run.summary else sum(epoch.seconds for epoch in run.epochs)
    )
    speed = run.summary.images_per_second if run.summary else last.images_per_second
    text = [
        (
            f"{formatting.plural(len(run.epochs), 'epoch')} in {formatting.duration(seconds)}, "
            f"{formatting.thousands(round(speed))} {_sample(run)}s a second."
        )
    ]
    if run.summary and run.summary.continues:
        text.append(
            f"It went on from the last state of {run.summary.continues}, whose epochs are counted "
            "and not shown."
        )
    if left := restrictions(run):
        text.append(f"The training set was restricted: {left}.")
    if run.torn:
        text.append("The last line of metrics.jsonl was cut off by a killed process and left out.")
    terms = tuple((name, formatting.number(value, 4)) for name, value in last.losses.items())
    held_out: tuple[tuple[str, str], ...] = ()
    if last.val and (share := share_of(last.val)) is not None:
        what = "accuracy" if last.val.accuracy is not None else "agreement"
        held_out = ((f"validation {what}", formatting.percent(share, last.val.n)),)
        headline = _task(run).headline
        if headline.path != "accuracy":
            held_out = ((f"validation {headline.name}", headline.shown(last.val)), *held_out)
    right = last.train_accuracy
    train = (("training accuracy", formatting.percent(right)),) if formatting.known(right) else ()
    rows = (*terms, *train, *held_out)
    return Section(
        "curves",
        "Training",
        tuple(text),
        (Grid(("", f"epoch {last.epoch}"), rows, f"stage {last.stage}"),),
        plots,
        folded=NUMBERS,
    )


def _task(run: Run) -> Task:
    data = run.recipe.get("data", {})
    return tasks.of_data(str(data.get("name"))) if isinstance(data, Mapping) else tasks.of_data("")


def _sample(run: Run) -> str:
    """What a row of logits answers, in a word."""
    return _task(run).sample


def along(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """How sure the student, and what learns beside it, were of the same images epoch by epoch."""
    moments = course(run)
    if len(moments) < 2:
        return None
    last = moments[-1].probe
    first = next(moment.probe for moment in moments if moment.probe.trained == last.trained)
    shown = images(last)
    caption = f"At τ = 1 on {shown}: before the first step, and after the last epoch."
    if run.summary and run.summary.calibration and run.summary.calibration.temperature:
        caption += " All of it before the logits were divided by their temperature."
    grid = Grid(
        ("", "accuracy", "entropy, nats", "free energy", "logit norm"),
        tuple(rows(first, last)),
        caption,
    )
    return Section(
        "along", "Along training", tuple(sentences(first, last)), (grid,), plots, folded=NUMBERS
    )


# ---- the gap and what explains it ----------------------------------------------------------------


def gap(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """How far the student's response is from its teacher's, at each temperature."""
    report = run.analysis.gap if run.analysis else None
    if report and report.pairs:
        return gap_sections.gap(report, plots)
    if run.summary and run.summary.gaps:
        grid = Grid(
            ("τ", "logits", "entropy, nats", "free energy"),
            tuple(_summary_gaps(run.summary)),
            provenance(run.summary),
        )
        return Section("gap", "Gap to the teacher", (gap_sections.SIGNS,), (grid,), plots)
    return None


def _summary_gaps(summary: RunResult) -> Iterator[tuple[str, ...]]:
    for at in summary.gaps:
        form = "aligned" if at.aligned else "raw"
        yield (
            formatting.temperature(at.temperature),
            form,
            formatting.signed(at.entropy),
            formatting.signed(at.free_energy),
        )


def words(run: Run, _: tuple[Figure, ...]) -> Section | None:
    """Where in a text the gap is."""
    report = run.analysis.gap if run.analysis else None
    return text_section.words(report) if report else None


def pair(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """Why the student answers differently."""
    report = run.analysis.gap if run.analysis else None
    return gap_sections.pair(report, plots) if report else None


def teacher(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """What the teacher has to teach, or the network itself where it has none."""
    report = run.analysis.gap if run.analysis else None
    found = gap_sections.teacher(report, plots) if report else None
    if found is None:
        return None
    found = replace(found, text=tuple(sentence for sentence in why(run) if sentence))
    if run.summary is None or run.summary.teachers:
        return found
    return replace(
        found,
        title="What the reference has to teach"
        if run.summary.reference
        else "What it would have to teach",
    )


# ---- calibration, confusion ----------------------------------------------------------------------


def calibration(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """How far confidence can be taken at its word."""
    if run.analysis is None or not run.analysis.calibration:
        return None
    curves = teacher_first(run.analysis.calibration)
    rows = tuple(
        (label, formatting.number(curve.ece), formatting.thousands(sum(curve.count)))
        for label, curve in curves.items()
    )
    caption = (
        "expected calibration error: 15 equal bins of confidence, mean absolute difference; test "
        "split"
    )
    return Section(
        "calibration",
        "Calibration",
        (said,) if (said := on_temperature(run.summary)) else (),
        (Grid(("", "ECE", "n"), rows, caption), *before_and_after(run.summary)),
        plots,
        folded=NUMBERS,
    )


def before_and_after(summary: RunResult | None) -> Iterator[Grid]:
    """What the temperature that was folded into the network did, where one was."""
    folded = summary.calibration if summary else None
    if summary is None or folded is None or folded.temperature is None:
        return
    rows = tuple(
        (name, formatting.number(before), formatting.number(after))
        for name, before, after in (
            ("NLL, nats", folded.nll_before, folded.nll_after),
            ("ECE", folded.ece_before, folded.ece_after),
        )
    )
    head = (
        "",
        "as trained",
        f"divided by {formatting.measured_temperature(folded.temperature)}",
    )
    yield Grid(head, rows, provenance(summary))


def confusion(run: Run, plots: tuple[Figure, ...]) -> Section | None:
    """Which classes are taken for which."""
    analysis = run.analysis
    if analysis is None or not analysis.confusion:
        return None
    names = analysis.class_names
    cells = [
        (count, row, column)
        for row, line in enumerate(analysis.confusion)
        for column, count in enumerate(line)
        if count and row != column
    ]
    worst = sorted(cells, key=lambda cell: (-cell[0], cell[1], cell[2]))[:5]
    rows = tuple((names[row], names[column], str(count)) for count, row, column in worst)
    grids = (
        (
            Grid(
                ("true class", "predicted", "images"),
                rows,
                "the commonest confusions on the test split",
                words=True,
            ),
        )
        if rows
        else ()
    )
    return Section("confusion", "Confusion", (), grids, plots, folded="The commonest confusions")
