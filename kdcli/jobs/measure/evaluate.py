"""`kd evaluate`: how good checkpoints are, and whether they differ by more than noise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdcli.analysis.metrics import mcnemar, per_class_accuracy
from kdcli.core.types import SplitName
from kdcli.engine.runtime import Runtime
from kdcli.jobs.measure.answers import Answers
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator, distinct, save_logits
from kdcli.jobs.measure.gates import check_gates
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.recipe.schema import GatesSection
from kdcli.results.measures import EvaluateResult, Evaluation, PairTest
from kdcli.trust import trusting


def evaluate(
    checkpoints: Sequence[str | Path],
    *,
    data: str | None = None,
    overrides: Mapping[str, Any] | Layer | None = None,
    split: SplitName = "test",
    device: str = "auto",
    per_class: bool = False,
    save_logits_to: Path | None = None,
    gates: GatesSection | None = None,
    trust: bool = False,
) -> EvaluateResult:
    """Measures checkpoints; each needs only itself and the data.

    Args:
        checkpoints: files or run directories.
        data: a dataset's name; what each was trained on unless given. overrides: dotted keys of
            [data] with values, such as {"data.path": "moved.npz"}.
        per_class: also the accuracy of each class.
        save_logits_to: a safetensors file for "targets" and "logits.LABEL".
        gates: thresholds that every checkpoint must meet.
        trust: whether Python files run that the checkpoints name, and not the caller.

    Raises:
        RecipeInvalid: what was said about the data is wrong. NotFound: a checkpoint or the data is
            not there. Incompatible: classes or images do not fit the data. Untrusted: a checkpoint
            names a Python file.
    """
    runtime = Runtime(device, precision="fp32")
    asked = measured_data.asked_for(data, overrides)
    evaluator = CheckpointEvaluator(asked, split=split, runtime=runtime)
    with trusting([asked.get("data", "name")], everything=trust):
        measured = [evaluator.answers(checkpoint) for checkpoint in checkpoints]
    labels = distinct(item.label for item in measured)
    if save_logits_to is not None:
        tensors = {
            f"logits.{label}": item.logits for label, item in zip(labels, measured, strict=True)
        }
        save_logits(save_logits_to, {"targets": measured[0].targets, **tensors}, measured[0])
    evaluations = tuple(_evaluation(item, per_class=per_class) for item in measured)
    thresholds, subjects = gates or GatesSection(), labels if len(labels) > 1 else [""]
    results = tuple(
        gate
        for item, subject in zip(evaluations, subjects, strict=True)
        for gate in check_gates(thresholds, item.measures, None, subject=subject)
    )
    return EvaluateResult(evaluations, _pairs(measured, labels), results)


def _evaluation(item: Answers, *, per_class: bool) -> Evaluation:
    names = item.info.class_names
    return Evaluation(
        checkpoint=item.checkpoint,
        network=item.architecture,
        parameters=item.parameters,
        method=item.method,
        data=item.info.name,
        measures=item.measures,
        per_class=per_class_accuracy(item.logits, item.targets, names) if per_class else {},
        source=item.source,
        trained_on_them=item.trained_on_them,
    )


def _pairs(measured: Sequence[Answers], labels: Sequence[str]) -> tuple[PairTest, ...]:
    """McNemar's test for every two checkpoints that were measured on the same images."""
    pairs = []
    for (a, first), (b, second) in itertools.combinations(zip(labels, measured, strict=True), 2):
        if first.targets.shape == second.targets.shape and torch.equal(
            first.targets, second.targets
        ):
            right, other = (item.logits.argmax(-1) == item.targets for item in (first, second))
            difference = float(other.double().mean() - right.double().mean())
            pairs.append(PairTest(a, b, difference, mcnemar(right, other)))
    return tuple(pairs)
