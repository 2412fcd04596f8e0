"""The first thing a report says: what came out, in plain words, from numbers alone."""

from __future__ import annotations

from kdcli.report import words
from kdcli.report.gap_plots import first_raw_pair, usual_temperature
from kdcli.report.run import Run
from kdcli.results import Excluded, GateResult, Measures, RunResult, TeacherSummary

AS_SURE = 0.005  # nats: where no interval is known, a smaller entropy gap is not worth a word

_COMPARES = {"min": "at least", "max": "at most"}


def verdict(run: Run) -> str:
    """One sentence: what the network is beside its teacher, or how good it is alone."""
    if run.summary is None:
        return _unfinished(run)
    best = best_teacher(run.summary)
    if best is None or best.test is None:
        return _alone(run.summary)
    return (
        f"The student is {_size(run.summary, best)} and {_accuracy(run.summary.test, best.test)} its teacher{_certainty(run, run.summary)}."
    )


def against_labels(run: Run) -> str:
    """What the teacher was worth, where a label-only baseline is known; else nothing."""
    if run.summary is None or run.baseline is None:
        return ""
    return f"It is {_accuracy(run.summary.test, run.baseline.test)} the same network trained on labels alone."


def on_missing(summary: RunResult | None) -> str:
    """How classes without a training image are answered; nothing where there are none, or none in the test split."""
    excluded = summary.excluded if summary else None
    if summary is None or excluded is None or excluded.accuracy is None:
        return ""
    own = "student" if summary.command == "distill" else "network"
    share = words.percent(excluded.accuracy, excluded.n)
    known = excluded.teacher_accuracy is not None
    beside = f" ({'teacher' if summary.teachers else 'reference'}: {words.percent(excluded.teacher_accuracy, excluded.n)})" if known else ""
    images = words.plural(excluded.n, "test image")
    return f"Of {missing_names(excluded)} the {own} saw no training image; it is right on {share} of {images}{beside}."


def missing_names(excluded: Excluded) -> str:
    """The missing classes in a sentence: class 7, classes 3 and 7."""
    names = [item.name for item in excluded.classes]
    return f"class{'es' if len(names) > 1 else ''} {words.listed(names)}"


def best_teacher(summary: RunResult) -> TeacherSummary | None:
    """The teacher that the student is held against: the most accurate one that was measured."""
    measured = [teacher for teacher in summary.teachers if teacher.test]
    return max(measured, key=lambda teacher: teacher.test.accuracy if teacher.test else 0.0, default=None)


def _unfinished(run: Run) -> str:
    if not run.epochs:
        return "This run is not finished: no epoch is complete yet."
    last = run.epochs[-1]
    return f"This run is not finished: epoch {last.epoch} of {last.epochs}, stage {last.stage}. Go on with: kd resume {run.path}"


def _alone(summary: RunResult) -> str:
    test = summary.test
    where = f"{words.percent(test.accuracy, test.n)} of {words.plural(test.n, f'{summary.data} test image')}"
    return f"{summary.network} with {words.count(summary.parameters)} parameters is right on {where}."


def _size(summary: RunResult, teacher: TeacherSummary) -> str:
    ratio = teacher.parameters / summary.parameters
    if 0.95 < ratio < 1.05:
        return "as large as its teacher"
    return f"{words.times(ratio)} smaller" if ratio > 1 else f"{words.times(1 / ratio)} larger"


def _accuracy(student: Measures, teacher: Measures) -> str:
    difference = 100 * (student.accuracy - teacher.accuracy)
    shown = f"{abs(difference):.{words.percent_digits(student.n)}f}"
    if float(shown) == 0:
        return "as accurate as"
    return f"{shown} points {'below' if difference < 0 else 'above'}"


def _certainty(run: Run, summary: RunResult) -> str:
    if summary.gap is None or not words.known(summary.gap.entropy):
        return ""
    gap = f"; entropy gap {words.signed(summary.gap.entropy)} nats"
    if _may_be_zero(run, summary.gap.entropy):
        return f"{gap}: it is as sure as its teacher, as far as these images can tell"
    return f"{gap}: it is {'less' if summary.gap.entropy > 0 else 'more'} sure than its teacher"


def _may_be_zero(run: Run, entropy: float) -> bool:
    """Whether the gap's interval holds zero; where there is none, whether the gap is too small to matter."""
    pair = first_raw_pair(run.analysis.gap) if run.analysis and run.analysis.gap else None
    if pair is None:
        return abs(entropy) < AS_SURE
    reach = usual_temperature(pair).entropy
    return reach.low <= 0 <= reach.high


def gate_sentence(gate: GateResult) -> str:
    """One gate in words: min accuracy: 97.2 %, at least 96.0 % asked for."""
    kind, _, quantity = gate.name.replace("-", "_").partition("_")
    share = quantity == "accuracy"
    value, limit = (words.percent(gate.value), words.percent(gate.limit)) if share else (words.number(gate.value), words.number(gate.limit))
    return f"{quantity.replace('_', ' ')} {value}, {_COMPARES.get(kind, 'limit')} {limit} asked for"


def overlap_note(first: Measures, second: Measures) -> str:
    """What the difference of two accuracies is worth at this number of images."""
    one, other = first.accuracy_interval, second.accuracy_interval
    n = words.thousands(first.n)
    if one.low > other.high or other.low > one.high:
        return f"the 95 % intervals do not overlap at n = {n}: the difference is more than chance"
    return f"the 95 % intervals overlap at n = {n}: kd evaluate with both checkpoints tests the difference on the same images"
