"""MODEL_CARD.md: all that is needed where the weights are found without the project; front matter
as the Hugging Face hub reads it.

Nothing is invented: licence and intended use are left as blanks that one can see, for a person to
fill in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from kdcli import formatting, tasks
from kdcli.report.findings.run import (
    against_labels,
    missing_names,
    on_missing,
    on_temperature,
    provenance,
    verdict,
)
from kdcli.report.markdown import code_block, escape
from kdcli.report.page.missing_section import missing
from kdcli.report.page.reproduce_section import reproduce_command
from kdcli.report.page.run_sections import (
    accuracy,
    before_and_after,
    restrictions,
)
from kdcli.report.page.summary import grid_markdown
from kdcli.results.run import RunResult
from kdcli.runs.read import Run

_BLANK = "_To be filled in by the person who publishes this model._"


def to_card(run: Run, summary: RunResult) -> str:
    """The model card of a finished run."""
    blocks = [
        _front_matter(summary),
        f"# {escape(summary.name)}",
        escape(
            " ".join(
                sentence
                for sentence in dict.fromkeys(
                    (verdict(run), against_labels(run), on_missing(summary))
                )
                if sentence
            )
        ),
        *_body(run, summary),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(summary: RunResult) -> str:
    """YAML, written as JSON values, which YAML contains; so no name can break it."""
    tags = (
        ["knowledge-distillation", summary.method]
        if summary.command == "distill"
        else ["teacher", summary.method]
    )
    values: dict[str, Any] = {
        "library_name": "kdcli",
        "tags": [tag for tag in tags if tag != "none"],
        "datasets": [summary.data],
        "metrics": [_task(summary).headline.path if summary.test.labelled else "agreement"],
        "model-index": [{"name": summary.name, "results": [_result(summary)]}],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", "license:  # fill in before publishing", *lines, "---"])


def _result(summary: RunResult) -> dict[str, Any]:
    test = summary.test
    measured = {
        "perplexity": test.perplexity if _task(summary).headline.path == "perplexity" else None,
        "accuracy": test.accuracy,
        "agreement": test.agreement,
        "nll": test.nll,
        "ece": test.ece,
    }
    basis = f"{test.split}, n = {test.n}, {test.selected} epoch, seed {summary.seed}"
    metrics = [
        {"type": name, "value": value, "name": f"{name} ({basis})"}
        for name, value in measured.items()
        if value is not None and math.isfinite(value)
    ]
    if (missing := summary.excluded) and missing.accuracy is not None:
        name = (
            f"accuracy on {missing_names(missing)}, without a training image ({test.split}, n = "
            f"{missing.n}, seed {summary.seed})"
        )
        metrics.append({"type": "accuracy", "value": missing.accuracy, "name": name})
    data = {"type": summary.data, "name": summary.data, "split": test.split}
    return {"task": {"type": _task(summary).hub}, "dataset": data, "metrics": metrics}


def _task(summary: RunResult) -> tasks.Task:
    return tasks.of_data(summary.data)


def _body(run: Run, summary: RunResult) -> Iterator[str]:
    yield "## Intended use"
    yield _BLANK
    yield "## Licence"
    yield _BLANK
    yield "## How good it is"
    for section in (accuracy(run, ()), missing(run, ())):
        if section:
            yield from (escape(paragraph) for paragraph in section.text)
            yield from (grid_markdown(grid) for grid in section.grids)
    yield from (grid_markdown(grid) for grid in before_and_after(summary))
    if summary.gap:
        gap = (
            f"entropy {formatting.signed(summary.gap.entropy)} nats, free energy "
            f"{formatting.signed(summary.gap.free_energy)}"
        )
        yield (
            f"Gap to the teacher at τ = {formatting.temperature(summary.gap.temperature)}, raw "
            f"logits: {gap} ({provenance(summary)})."
        )
    yield "## How it was made"
    yield "\n".join(f"- {key}: {escape(value)}" for key, value in _facts(run, summary))
    yield code_block(reproduce_command(run), "sh")
    yield "## Limits"
    labelled = summary.test.labelled is not None
    yield (
        f"Measured on {formatting.plural(summary.test.n, _task(summary).sample)} of "
        f"{escape(summary.data)} with one seed ({summary.seed}); "
        "nothing is known about other data."
        + (" Probabilities carry the calibration error given above." if labelled else "")
    )


def _facts(run: Run, summary: RunResult) -> Iterator[tuple[str, str]]:
    yield "network", f"{summary.network}, {formatting.count(summary.parameters)} parameters"
    yield from (("weights before training", note) for note in summary.notes)
    yield "method", summary.method
    for teacher in summary.teachers:
        yield (
            "teacher",
            (
                f"{teacher.architecture}, {formatting.count(teacher.parameters or None)} parameters"
                + (f", sha256 {teacher.sha256[:16]}" if teacher.sha256 else "")
            ),
        )
    yield (
        "data",
        (f"{summary.data}, fingerprint {run.described.data.fingerprint}"),
    )
    if left := restrictions(run):
        yield "trained on", left
    if said := on_temperature(summary):
        yield "temperature", said
    yield (
        "training",
        (
            f"{formatting.plural(summary.epochs, 'epoch')}, seed {summary.seed}, "
            f"{summary.precision} on {summary.device}, {formatting.duration(summary.wall_seconds)}"
        ),
    )
    if summary.continues:
        yield "continues", f"the training of {summary.continues}, from its last state"
    yield "recipe", f"sha256 {summary.recipe_sha256[:16]}, in full in recipe.toml"
    yield "weights", PurePath(summary.checkpoint).name
    git = run.described.git
    commit = (
        f", commit {git.commit[:12]}{' with uncommitted changes' if git.dirty else ''}"
        if git is not None
        else ""
    )
    yield (
        "software",
        (f"kdcli {run.described.kdcli}, torch {run.described.torch}{commit}"),
    )
