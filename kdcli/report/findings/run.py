"""The first thing a report says: what came out, in plain words, from numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kdcli import formatting, tasks, trust
from kdcli.report.findings.baseline import baseline_command
from kdcli.report.findings.costs import faster
from kdcli.report.findings.gap import (
    first_raw_pair,
    limits_of,
    relative_size,
    sure,
    what_there_is_to_learn,
)
from kdcli.results.gap import GapAt
from kdcli.results.intervals import Interval
from kdcli.results.measures import Excluded, GateResult, Labelled, Measures
from kdcli.results.run import RunResult, TeacherSummary
from kdcli.runs.read import Run

AS_SURE = 0.005  # nats: where no interval is known, a smaller entropy gap is not worth a word

# gates whose names do not say all: the quantity, its scale and its unit
_GATED = {
    "min_class_accuracy": ("accuracy of the worst class", 100.0, f"{formatting.NBSP}%"),
    "within": ("accuracy below the teacher's by", 1.0, f"{formatting.NBSP}points"),
    "not_below": ("accuracy beside that of the other run", 100.0, f"{formatting.NBSP}%"),
    "max_latency_ms": ("time of one image", 1.0, f"{formatting.NBSP}ms"),
}


def verdict(run: Run) -> str:
    """One sentence: what was gained beside the teacher, or, without one, whether the method helped;
    else how good the network is.
    """
    if run.summary is None:
        return _unfinished(run)
    return beside_teacher(run) or against_labels(run) or _alone(run.summary)


def lead(run: Run) -> tuple[str, ...]:
    """What follows the verdict: the rest of what is known, and what is not."""
    if run.summary is None:
        return ()
    taught = beside_teacher(run)
    said = (
        against_labels(run) if taught else "",
        certainty(run),
        on_missing(run.summary),
        on_unlabelled(run.summary),
        unknown(run),
    )
    return tuple(sentence for sentence in said if sentence)


def without_labels(summary: RunResult) -> str:
    """That the test images have no labels, and what is absent for that; nothing where they have."""
    if summary.test.labelled is not None:
        return ""
    share = summary.test.agreement
    known = (
        ""
        if share is None
        else "; what is known is how far it answers as its teacher does: to "
        f"{formatting.percent(share, summary.test.n)} of them it gives the same class"
    )
    return (
        f"{formatting.plural(summary.test.n, 'test image')} have no labels, so that accuracy, NLL "
        f"and calibration are not measured{known}."
    )


def on_unlabelled(summary: RunResult) -> str:
    """What is known of a student that had pictures without labels; nothing of others."""
    if summary.test.labelled is None:
        return without_labels(summary)
    if not summary.unlabelled or summary.agreement is None:
        return ""
    return (
        f"{formatting.plural(summary.unlabelled, 'training image')} had no label, and of them it "
        "learned what the teacher answers: it gives "
        f"{formatting.percent(summary.agreement, summary.test.n)} of the test images the class "
        "that the teacher gives them."
    )


def beside_teacher(run: Run) -> str:
    """How many times smaller and faster the student is than the best teacher, and how many points
    that cost; nothing without a teacher that was measured.
    """
    best = best_teacher(run.summary) if run.summary else None
    if run.summary is None or best is None or best.test is None:
        return ""
    said = [relative_size(best.parameters / run.summary.parameters)]
    if run.summary.cost and best.cost and (speed := faster(best.cost, run.summary.cost)):
        said.append(tasks.of_data(run.summary.data).worded(speed))
    headline, test = tasks.of_data(run.summary.data).headline, run.summary.test
    accuracy = f"{headline.beside(test, best.test)} its teacher"
    if test.labelled is None:
        share = formatting.percent(test.agreement, test.n)
        accuracy = f"answers {share} of the test images as its teacher does"
        return f"The student is {' and '.join(said)}, and {accuracy}."
    return f"The student is {', '.join(said)}{',' if len(said) > 1 else ''} and {accuracy}."


def used_temperature(run: Run) -> float:
    """The temperature that the run's method softens with, where the gap was measured at it; else 1,
    at which networks are used.
    """
    options = run.recipe.get("method", {})
    asked = options.get("temperature") if isinstance(options, Mapping) else None
    known = {gap.temperature for gap in run.summary.gaps} if run.summary else set()
    return float(asked) if isinstance(asked, int | float) and asked in known else 1.0


def used_gap(run: Run) -> GapAt | None:
    """The gap of raw logits at that temperature."""
    if run.summary is None:
        return None
    at = used_temperature(run)
    found = (gap for gap in run.summary.gaps if gap.temperature == at and not gap.aligned)
    return next(found, run.summary.gap)


def certainty(run: Run) -> str:
    """Whether the student is as sure as its teacher, at the temperature that the run used; nothing
    where the gap was not measured.
    """
    gap = used_gap(run)
    if run.summary is None or not run.summary.teachers or gap is None:
        return ""
    if not formatting.known(gap.entropy):
        return ""
    at = f"At τ = {formatting.temperature(gap.temperature)}"
    if gap.temperature != 1:
        at += ", at which it was distilled,"
    how = sure(gap.entropy, may_be_zero=_may_be_zero(run, gap))
    return f"{at} it is {how}: entropy gap {formatting.signed(gap.entropy)} nats."


def beside(run: Run) -> str:
    """The finding of the accuracy figure: the distance to the best teacher, and to labels alone."""
    assert run.summary is not None
    test, found = run.summary.test.labelled, []
    if test is None:
        return without_labels(run.summary)
    if run.baseline and (alone := run.baseline.test.labelled):
        found.append(
            f"{formatting.points(test.accuracy - alone.accuracy, test.n)} against labels alone"
        )
    if (best := best_teacher(run.summary)) and best.test and (taught := best.test.labelled):
        found.append(
            f"{formatting.points(test.accuracy - taught.accuracy, test.n)} against the teacher"
        )
    own = "student" if run.command == "distill" else "network"
    return (
        f"The {own} is right on {formatting.percent(test.accuracy, test.n)}: {', '.join(found)}"
        if found
        else "Test accuracy"
    )


def against_labels(run: Run) -> str:
    """Tells whether the teacher was worth it, where a label-only baseline is known; else
    nothing.
    """
    if run.summary is None or run.baseline is None:
        return ""
    test, alone = run.summary.test, run.baseline.test
    if test.labelled is None or alone.labelled is None:
        return ""
    reach = difference(test.labelled, alone.labelled)
    what = "Distillation" if run.summary.teachers else run.summary.method
    if reach.low > 0:
        finding = f"{what} helped here"
    elif reach.high < 0:
        finding = f"{what} cost accuracy here"
    else:
        finding = f"Whether {what[0].lower()}{what[1:]} helped here is within noise"
    own = "student" if run.command == "distill" else "network"
    headline = tasks.of_data(run.summary.data).headline
    if headline.path != "accuracy":  # the interval is that of a share
        return (
            f"The {own} is {headline.beside(test, alone)} the same network trained on labels alone "
            f"(n = {formatting.thousands(test.n)}, one seed)."
        )
    digits = formatting.percent_digits(test.n)
    interval = (
        f"{formatting.signed(100 * reach.low, digits)} to "
        f"{formatting.signed(100 * reach.high, digits)}"
    )
    return (
        f"{finding}: the {own} is {headline.beside(test, alone)} the same network trained "
        "on labels alone "
        f"(95 % interval {interval} points, n = {formatting.thousands(test.n)}, one seed)."
    )


def difference(one: Labelled, other: Labelled) -> Interval:
    """Newcombe's 95 % interval of a difference of accuracies, from Wilson's of both. It takes the
    images for different ones, and so is wider than it need be where they are the same.
    """
    between = one.accuracy - other.accuracy
    a, b = one.accuracy_interval, other.accuracy_interval
    low = math.hypot(one.accuracy - a.low, b.high - other.accuracy)
    high = math.hypot(a.high - one.accuracy, other.accuracy - b.low)
    return Interval(between - low, between + high)


def unknown(run: Run) -> str:
    """That nothing tells whether the teacher was worth it, where nothing does."""
    if run.summary is None or run.baseline is not None or not run.summary.teachers:
        return ""
    if run.summary.test.labelled is None:
        return ""  # nor could a baseline be compared
    made = ". This makes one:" if missing_baseline(run) else "."
    return (
        "Whether distillation helped is not known: no run of the same recipe on labels alone "
        f"lies beside this one{made}"
    )


def missing_baseline(run: Run) -> str:
    """The command that makes the baseline of a finished run that has none; it follows `lead`."""
    asked = run.summary is not None and run.baseline is None and bool(run.summary.teachers)
    asked = asked and run.summary is not None and run.summary.test.labelled is not None
    return baseline_command(run) if asked and _has_labels(run) else ""


def _has_labels(run: Run) -> bool:
    """Tells whether labels alone would teach anything: some training image has one."""
    return run.summary is not None and run.summary.unlabelled != run.described.data.train


def why(run: Run) -> tuple[str, str]:
    """What there was to learn, by the distillation hypothesis, and what that rests on; nothing
    where it was not asked.
    """
    report = run.analysis.gap if run.analysis else None
    found = report.explanation.hypothesis if report and report.explanation else None
    if report is None or found is None:
        return "", ""
    return what_there_is_to_learn(found, "teacher" if report.pairs else "network"), limits_of(
        found, report.n
    )


def on_missing(summary: RunResult | None) -> str:
    """How classes without a training image are answered; nothing where there are none, or none in
    the test split.
    """
    excluded = summary.excluded if summary else None
    if summary is None or excluded is None or excluded.accuracy is None:
        return ""
    own = "student" if summary.command == "distill" else "network"
    share = formatting.percent(excluded.accuracy, excluded.n)
    known = excluded.teacher_accuracy is not None
    beside = (
        (
            f" ({'teacher' if summary.teachers else 'reference'}: "
            f"{formatting.percent(excluded.teacher_accuracy, excluded.n)})"
        )
        if known
        else ""
    )
    images = formatting.plural(excluded.n, "test image")
    return (
        f"Of {missing_names(excluded)} the {own} saw no training image; it is right on {share} "
        f"of {images}{beside}."
    )


def on_temperature(summary: RunResult | None) -> str:
    """Which temperature was folded into the network, and on what it was fitted; or why none was.
    Nothing where none was to be.
    """
    folded = summary.calibration if summary else None
    if summary is None or folded is None:
        return ""
    if folded.temperature is None:
        return f"No temperature was fitted to the logits: {folded.why_not}."
    chosen = summary.val is not None and summary.val.selected == "best"
    again = (
        ", the same on which the epoch was chosen, so that they look a little better than they are"
        if chosen
        else ""
    )
    tau = formatting.measured_temperature(folded.temperature)
    images = formatting.plural(folded.n, "image")
    return (
        f"All logits were divided by {tau}, folded into the last layer once training was over: no "
        f"image is taken for another class. That temperature fits {images} held out of the "
        f"training set best{again}."
    )


def missing_names(excluded: Excluded) -> str:
    """The missing classes in a sentence: class 7, classes 3 and 7."""
    names = [item.name for item in excluded.classes]
    return f"class{'es' if len(names) > 1 else ''} {formatting.listed(names)}"


def best_teacher(summary: RunResult) -> TeacherSummary | None:
    """The teacher that the student is held against: the most accurate one that was measured."""
    measured = [teacher for teacher in summary.teachers if teacher.test]
    score = tasks.of_data(summary.data).headline.score
    return max(
        measured, key=lambda teacher: score(teacher.test) if teacher.test else 0.0, default=None
    )


def _unfinished(run: Run) -> str:
    if not run.epochs:
        return "This run is not finished: no epoch is complete yet."
    last = run.epochs[-1]
    return (
        f"This run is not finished: epoch {last.epoch} of {last.epochs}, stage {last.stage}. Go "
        f"on with: kd resume {run.path}{trust.option(run.recipe)}"
    )


def _alone(summary: RunResult) -> str:
    test = summary.test
    task = tasks.of_data(summary.data)
    where = formatting.plural(test.n, f"{summary.data} test {task.sample}")
    return (
        f"{summary.network} with {formatting.count(summary.parameters)} parameters "
        f"{task.headline.said(test)} {where}."
    )


def _may_be_zero(run: Run, gap: GapAt) -> bool:
    """Tells whether the gap's interval holds zero; where there is none, whether the gap is too
    small to matter.
    """
    reach = interval_of(run, gap)
    return abs(gap.entropy) < AS_SURE if reach is None else reach.low <= 0 <= reach.high


def interval_of(run: Run, gap: GapAt) -> Interval | None:
    """The interval of an entropy gap on raw logits, where one was computed."""
    pair = first_raw_pair(run.analysis.gap) if run.analysis and run.analysis.gap else None
    found = (at.entropy for at in pair.at if at.temperature == gap.temperature) if pair else ()
    reach = next(iter(found), None)
    return Interval(reach.low, reach.high) if reach else None


def gate_sentence(gate: GateResult) -> str:
    """One gate in words: accuracy 97.2 %, at least 96.0 % asked for."""
    quantity, scale, unit = _GATED.get(gate.name) or _quantity(gate.name)
    found, asked = None if gate.value is None else scale * gate.value, scale * gate.limit
    least = 3 if scale == 1 and not unit else 1
    value, limit = formatting.set_apart(found, asked, gate_digits(gate, asked, least))
    surely = " at 95 % confidence" if gate.confident else ""
    how = "at least" if gate.at_least else "at most"
    return f"{quantity} {value}{unit}{surely}, {how} {limit}{unit} asked for"


def gate_digits(gate: GateResult, asked: float, least: int = 3) -> int:
    """The decimals of a threshold, as it is shown: as many as were asked for.

    Args:
        asked: the threshold in the unit of the screen. least: decimals at least.
    """
    if gate.name == "max_parameters":
        return 0
    # nobody asked for the digits of another run's accuracy
    return least if gate.name == "not_below" else formatting.asked_digits(asked, least)


def _quantity(name: str) -> tuple[str, float, str]:
    """What a gate min_X or max_X is about, and how it is shown."""
    quantity = name.replace("-", "_").partition("_")[2]
    share = quantity in {"accuracy", "agreement"}
    return quantity.replace("_", " "), 100 if share else 1, f"{formatting.NBSP}%" if share else ""


def overlap_note(first: Measures, second: Measures) -> str:
    """What the difference of two accuracies is worth at this number of images."""
    one, other = first.accuracy_interval, second.accuracy_interval
    if one is None or other is None:
        return "one of them was measured without labels"
    n = formatting.thousands(first.n)
    if one.low > other.high or other.low > one.high:
        return f"the 95 % intervals do not overlap at n = {n}: the difference is more than chance"
    return (
        f"the 95 % intervals overlap at n = {n}: kd evaluate with both checkpoints tests the "
        "difference on the same images"
    )


def provenance(summary: RunResult) -> str:
    """The basis of every number of a run: split, n, which epoch, seed."""
    test = summary.test
    task = tasks.of_data(summary.data)
    best = f"best epoch by validation {task.headline.name}"
    epoch = "last epoch" if test.selected == "last" else best
    return (
        f"{test.split} split of {summary.data}, n = {formatting.thousands(test.n)} {task.sample}s, "
        f"{epoch} of "
        f"{summary.epochs}, seed {summary.seed}"
    )
