"""`kd evaluate`: checkpoints side by side, with intervals and paired tests, so that noise is not
read as progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdcli import formatting
from kdcli.cli import completion
from kdcli.cli import options as o
from kdcli.cli.commands.gates import gates_of, measured_on, split_of, warn_of_unsigned
from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import Outcome
from kdcli.cli.text import columns
from kdcli.errors import NotFound, UsageError
from kdcli.files import check_writable

if TYPE_CHECKING:
    from kdcli.results.cost import Cost
    from kdcli.results.measures import EvaluateResult, Evaluation, PairTest
    from kdcli.tasks import Headline

NAME = "evaluate"
EXAMPLES = """
kd evaluate runs/*/model.safetensors
kd evaluate runs/latest --per-class --latency --min-accuracy 0.9
kd evaluate runs/latest --on other-photos
"""
FORMS: tuple[Literal["compiled", "onnx"], ...] = ("compiled", "onnx")
SIGNIFICANT = 0.05
MOST_NAME = 24  # columns of a checkpoint's name beside the numbers, on 80
MOST_PAIRS = 6  # of four checkpoints; more would bury the table. --json has all of them

Checkpoints = Annotated[
    list[Path],
    typer.Argument(
        metavar="CHECKPOINT",
        help="model.safetensors files or run directories.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
On = Annotated[
    Path | None,
    typer.Option(
        "--on",
        help="Measure on all pictures below FOLDER/CLASS instead, as the run reads pictures.",
        metavar="FOLDER",
        rich_help_panel=o.RUNNING,
        show_default=False,
    ),
]
TimedToo = Annotated[
    bool,
    typer.Option(
        "--latency",
        help="Also size on disk, multiply-adds, and how long 1 and 32 images take.",
        rich_help_panel=o.RUNNING,
    ),
]
Forms = Annotated[
    str | None,
    typer.Option(
        "--forms",
        help="With --latency, also timed: compiled, onnx or both, with a comma between them. Each "
        "takes seconds to make.",
        metavar="LIST",
        show_default=False,
        rich_help_panel=o.RUNNING,
    ),
]


@o.takes(*o.LABEL_GATES, "min_agreement", "within")
def run(
    env: Environment,
    checkpoint: Checkpoints,
    *,
    data: o.EvalData = None,
    data_dir: o.DataRoot = None,
    sets: o.DataSets = None,
    on: On = None,
    split: o.Split = "test",
    device: o.EvalDevice = "auto",
    trust: o.Trust = False,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Also the accuracy of each class, balanced accuracy and macro-F1.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    latency: TimedToo = False,
    forms: Forms = None,
    save_logits: o.SaveLogits = None,
    **flags: Any,
) -> Outcome:
    """Measure checkpoints: accuracy, top-5, NLL, ECE.

    The data are those that each checkpoint was trained on, unless --data names others; -s
    data.path=FILE says where they are now. --on FOLDER measures on other pictures of the same
    classes. Of pictures without labels, agreement with the teachers that a run names is measured.
    """
    gates = gates_of(**{o.FLAGS[name][1].partition(".")[2]: flags[name] for name in flags})
    wanted, others = split_of(split), _forms(forms, latency=latency)
    checkpoints = _distinct(checkpoint)
    if on is not None:
        _check_on(on, with_data=bool(data or sets or data_dir or wanted != "test"))
    asked = measured_on(checkpoints, data, sets or (), data_dir) if on is None else None
    if save_logits is not None:
        check_writable(save_logits, text=False)
    from kdcli import jobs
    from kdcli.cli.output.run_screen import show_gates

    result = jobs.evaluate(
        checkpoints,
        overrides=asked,
        on=on,
        split=wanted,
        device=device,
        per_class=per_class,
        latency=latency,
        forms=others,
        save_logits_to=save_logits,
        gates=gates,
        trust=trust,
    )
    for line in _lines(env, result):
        env.answer(line)
    for sentence in result.warnings:
        env.report(("warning: ", "yellow"), sentence)
    if save_logits:
        env.report(f"  logits   {save_logits}")
    show_gates(env, result.gates)
    return Outcome.of(result, warn_of_unsigned(env, checkpoints))


def _forms(given: str | None, *, latency: bool) -> tuple[Literal["compiled", "onnx"], ...]:
    if given is None:
        return ()
    if not latency:
        raise UsageError("--forms are forms in which networks are timed", hint="--latency --forms")
    found = tuple(part.strip() for part in given.split(","))
    if not all(part in FORMS for part in found):
        raise UsageError(
            f"--forms takes {' and '.join(FORMS)}, got {given!r}", hint=f"--forms {','.join(FORMS)}"
        )
    return tuple(form for form in FORMS if form in found)


def _check_on(on: Path, *, with_data: bool) -> None:
    """Refuses other pictures that are not there, or are to be data as well."""
    if with_data:
        raise UsageError(
            f"--on {on} measures all pictures in it: neither data nor a split go with that",
            hint="leave --data, --set data.KEY, --data-dir and --split out",
        )
    if not on.is_dir():
        raise NotFound(f"no such folder: {on}", hint="--on FOLDER, with a folder a class in it")


def _distinct(checkpoints: list[Path]) -> list[Path]:
    """Each checkpoint once (runs/* holds runs/latest too), by its name that is no link. Refuses
    what is none before torch is imported.
    """
    from kdcli.results.weights_header import read_header

    found: dict[Path, Path] = {}
    for path in checkpoints:
        file = read_header(path)[0].resolve()
        if file not in found or path.absolute() == path.resolve():
            found[file] = path
    return list(found.values())


def label(checkpoint: str) -> str:
    """A checkpoint as a table calls it: its run directory, or the file where it is not a run's
    result.
    """
    path = Path(checkpoint)
    return str(path.parent) if path.name == "model.safetensors" and path.parent.name else checkpoint


def _lines(env: Environment, result: EvaluateResult) -> Iterator[str]:
    for (data, n, split), group in groupby(
        result.evaluations, key=lambda item: (item.source, item.measures.n, item.measures.split)
    ):
        items = list(group)
        part = "all" if items[0].on else f"{split} split"
        yield f"  {part} · n = {formatting.thousands(n)} · {data}"
        yield from _table(env, items)
        for item in items:
            if not item.trained_on_them:
                yield f"  {label(item.checkpoint)} was not trained on these data"
        yield from (f"  {note}" for note in dict.fromkeys(n for item in items for n in item.notes))
    ranked = sorted(result.pairs, key=lambda pair: pair.p_value)
    yield from (_sentence(pair, result) for pair in ranked[:MOST_PAIRS])
    if len(ranked) > MOST_PAIRS:
        yield f"  … and {len(ranked) - MOST_PAIRS} more pairs: --json has them all"
    yield from _costs(env, result)
    for item in result.evaluations:
        if item.per_class:
            found = item.measures
            yield (
                f"  {label(item.checkpoint)}: accuracy by class · balanced accuracy "
                f"{formatting.percent(found.balanced_accuracy, found.n)} · macro-F1 "
                f"{formatting.number(found.macro_f1)}"
            )
            ranked_classes = sorted(item.per_class.items(), key=lambda pair: (pair[1], pair[0]))
            yield from columns(
                [(name, formatting.percent(value)) for name, value in ranked_classes],
                "<>",
                indent=4,
            )


def _table(env: Environment, items: list[Evaluation]) -> list[str]:
    from kdcli import tasks

    if all(item.measures.labelled is None for item in items):
        return _without_labels(env, items)
    top5 = any(item.measures.top5 is not None for item in items)
    headline = tasks.of_data(items[0].data).headline
    first = headline if headline.path != "accuracy" else None
    head = (
        "checkpoint",
        "model",
        "params",
        *((headline.heading,) if first else ()),
        "accuracy",
        "95 % CI",
        *(("top-5",) if top5 else ()),
        "NLL",
        "ECE",
    )
    names = _names(env, items)
    return columns(
        [
            head,
            *(_row(name, item, first, top5=top5) for name, item in zip(names, items, strict=True)),
        ],
        "<<>>>>>>>" if first else "<<>>>>>>",
        room=env.answer_width,
    )


def _names(env: Environment, items: list[Evaluation]) -> list[str]:
    names = [label(item.checkpoint) for item in items]
    if max(map(len, names)) > MOST_NAME and env.stdout.isatty():
        return [Path(name).name for name in names]
    return names


def _without_labels(env: Environment, items: list[Evaluation]) -> list[str]:
    """The same for pictures that have no labels: what can be said of answers to them."""
    head = ("checkpoint", "model", "params", "agreement", "entropy", "free energy")
    rows = [
        (
            name,
            item.network,
            formatting.count(item.parameters),
            formatting.percent(item.measures.agreement, item.measures.n),
            formatting.number(item.measures.entropy),
            formatting.number(item.measures.free_energy, 2),
        )
        for name, item in zip(_names(env, items), items, strict=True)
    ]
    return [
        "  no labels: accuracy, NLL and ECE are not measured; agreement is with the teacher",
        *columns([head, *rows], "<<>>>>", room=env.answer_width),
    ]


def _costs(env: Environment, result: EvaluateResult) -> Iterator[str]:
    """What each costs, each teacher before its student."""
    found: dict[str, Cost] = {}
    for item in result.evaluations:
        named = {f"{name} (teacher)": cost for name, cost in item.teacher_costs.items()}
        own = {item.checkpoint: item.cost} if item.cost is not None else {}
        found |= named | own
    if not found:
        return
    from kdcli.report.findings.costs import ROWS, conditions, gain, rows_of, shown

    listed = {label(item.checkpoint) for item in result.evaluations}
    yield ""
    kept = [
        (label(name), cost)
        for name, cost in found.items()
        if name.removesuffix(" (teacher)") == name
        or label(name.removesuffix(" (teacher)")) not in listed
    ]
    rows = [(name, *(shown(row, cost) for row in ROWS)) for name, cost in kept]
    head = ("checkpoint", "on disk", "params", "mult-adds", "1 image, ms", "32 images, ms")
    yield from columns([head, *rows], "<>>>>>", room=env.answer_width)
    others = rows_of([cost for _, cost in kept])[len(ROWS) :]
    for at in range(0, len(others), 2):  # a form at a time, 1 image and 32
        pair = others[at : at + 2]
        rows = [(name, *(shown(row, cost) for row in pair)) for name, cost in kept]
        yield from columns([("", *(row.name for row in pair)), *rows], "<>>", room=env.answer_width)
    yield from (f"  {line}" for line in conditions(next(reversed(found.values()))))
    for item in result.evaluations:
        for name, cost in item.teacher_costs.items():
            if item.cost is not None:
                yield f"  {label(item.checkpoint)} beside {label(name)}: {gain(cost, item.cost)}"


def _row(name: str, item: Evaluation, headline: Headline | None, *, top5: bool) -> tuple[str, ...]:
    """headline: of the task, where that is not accuracy."""
    found = item.measures
    interval = formatting.percent_range(found.accuracy_interval, found.n).removesuffix(
        f"{formatting.NBSP}%"
    )
    more = (formatting.percent(found.top5, found.n),) if top5 else ()
    accuracy = formatting.percent(found.accuracy, found.n)
    return (
        name,
        item.network,
        formatting.count(item.parameters),
        *((headline.shown(found),) if headline else ()),
        accuracy,
        interval,
        *more,
        formatting.number(found.nll),
        formatting.number(found.ece),
    )


def _sentence(pair: PairTest, result: EvaluateResult) -> str:
    n = result.evaluations[0].measures.n
    distance = formatting.points(abs(pair.difference), n).removeprefix("+")
    test = f"McNemar p = {pair.p_value:.2g}" if pair.p_value >= 0.001 else "McNemar p < 0.001"
    if pair.two_seeds_of:
        chance = "less" if pair.p_value >= SIGNIFICANT else "more"
        return (
            f"  {pair.first} and {pair.second} are two seeds of {pair.two_seeds_of}: they differ "
            f"by {distance}, {chance} than other images might change ({test})"
        )
    if pair.p_value >= SIGNIFICANT:
        return (
            f"  {pair.first} and {pair.second} differ by {distance}: within noise at n = "
            f"{formatting.thousands(n)} ({test})"
        )
    better, worse = (pair.second, pair.first) if pair.difference > 0 else (pair.first, pair.second)
    return (
        f"  {better} is {distance} better than {worse}: more than noise at n = "
        f"{formatting.thousands(n)} ({test})"
    )
