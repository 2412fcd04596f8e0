"""docs/reference/python.md: the functions of kdcli.jobs, their results and the events, as the code
has them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, get_args

from kdcli import jobs
from kdcli.jobs import events
from kdcli.jobs.use.network import Classifier
from kdcli.results.export import ExportResult
from kdcli.results.gap import GapReport
from kdcli.results.measures import EvaluateResult
from kdcli.results.predictions import PredictResult
from kdcli.results.run import RunResult

INTRODUCTION = """# The Python API

`from kdcli.jobs import distill, evaluate, load_network, ...`: what the command line calls, and
what a notebook imports. [How to use it](../how-to/python.md) shows each at work. Functions
return frozen records; what they raise is a `kdcli.errors.KdError`, whose `message`, `hint`,
`code` and `exit_code` are those of the command line ([exit codes](exit-codes.md)).
"""
MAIN = (
    "train_teacher",
    "distill",
    "resume",
    "evaluate",
    "analyze_gap",
    "load_network",
    "predict",
    "export",
)
RESULTS = (RunResult, EvaluateResult, GapReport, Classifier, PredictResult, ExportResult)
LISTENERS = """\
A listener is any callable that takes one event; hand it to a job with `listeners=[...]`. It is
called in the process of the run, between steps, so one that takes long makes the run slow.
Tensors in `StepDone` stay on the device: reading one waits for it.

A listener that raises stops nothing: it hears nothing more, the run ends with the same bits,
and one sentence says so, as a `kdcli.jobs.listeners.ListenerWarning` on stderr and among the
`warnings` of the result. (Of a run on several devices, which is written down by another
process, on stderr alone.) To stop a run, raise `kdcli.errors.Interrupted`: `resume` goes on
from the state that was saved last, which is so many seconds old at most as
`train.state_seconds` says.
"""


def python_page() -> str:
    """All of it, Markdown."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    yield "## Functions\n"
    for name in MAIN:
        yield _function(name)
    yield "## More functions\n"
    for name in sorted(set(jobs.__all__) - set(MAIN)):
        if inspect.isfunction(getattr(jobs, name)):
            yield _function(name)
    yield "## Results\n"
    yield "What `--json` prints and the files of a run hold, typed.\n"
    for record in RESULTS:
        yield f"### `{record.__module__}.{record.__name__}`\n\n{_text(record)}"
    yield "## Listeners\n"
    yield LISTENERS
    yield "## Events\n"
    yield (
        "In `kdcli.jobs.events`. One run is heard as "
        f"{', '.join(f'`{kind.__name__}`' for kind in get_args(events.RunEvent))}; the others "
        "are of sweeps.\n"
    )
    for kind in get_args(events.Event):
        yield _event(kind)


def _function(name: str) -> str:
    found = getattr(jobs, name)
    signature = inspect.signature(found)
    given = "".join(f"    {line},\n" for line in _parameters(signature))
    returns = _type(signature.return_annotation)
    return f"### `{name}`\n\n```text\n{name}(\n{given}) -> {returns}\n```\n\n{_text(found)}"


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {_said(parameter.default)}"
        yield f"{stars}{parameter.name}: {_type(parameter.annotation)}{default}"


def _said(default: Any) -> str:
    return "..." if callable(default) else repr(default)


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _event(kind: type[Any]) -> str:
    rows = [f"| `{item.name}` | {_cell(_type(item.type))} |" for item in dataclasses.fields(kind)]
    table = "\n".join(["| field | type |", "| --- | --- |", *rows])
    return f"### `{kind.__name__}`\n\n{_text(kind)}\n{table}\n"


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _text(thing: Any) -> str:
    return f"```text\n{inspect.cleandoc(thing.__doc__)}\n```\n"
