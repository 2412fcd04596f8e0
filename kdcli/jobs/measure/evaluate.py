"""`kd evaluate`: how good checkpoints are, and whether they differ by more than noise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli.analysis.checks import is_bare
from kdcli.analysis.metrics import mcnemar, per_class_accuracy
from kdcli.core.network import Network
from kdcli.core.types import SplitName
from kdcli.engine.runtime import Runtime
from kdcli.errors import KdError, UsageError
from kdcli.jobs.build.labels import check_gates_of_labels
from kdcli.jobs.build.networks import load_network
from kdcli.jobs.measure.answers import Answers
from kdcli.jobs.measure.beside_teachers import Beside, beside_teachers
from kdcli.jobs.measure.costs import check_forms, cost
from kdcli.jobs.measure.from_checkpoint import CheckpointEvaluator, distinct, save_logits
from kdcli.jobs.measure.gates import Held, check_gates, with_counts
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.recipe.schema import GatesSection
from kdcli.recipe.writing import NOT_CONTENT
from kdcli.results.cost import Cost, Form
from kdcli.results.measures import EvaluateResult, Evaluation, Measures, PairTest
from kdcli.results.weights_header import MODEL_FILE, find_checkpoint
from kdcli.runs.find import from_here
from kdcli.runs.folder import RECIPE_FILE
from kdcli.runs.read import Run, read_recipe
from kdcli.trust import trusting


def evaluate(
    checkpoints: Sequence[str | Path],
    *,
    data: str | None = None,
    overrides: Mapping[str, Any] | Layer | None = None,
    on: str | Path | None = None,
    split: SplitName = "test",
    device: str = "auto",
    per_class: bool = False,
    latency: bool = False,
    forms: Sequence[Form] = (),
    save_logits_to: Path | None = None,
    gates: GatesSection | None = None,
    trust: bool = False,
) -> EvaluateResult:
    """Measures checkpoints; each needs only itself and the data.

    Args:
        checkpoints: files or run directories.
        data: a dataset's name; what each was trained on unless given. overrides: dotted keys of
            [data] with values, such as {"data.path": "moved.npz"}.
        on: a folder of other pictures of the checkpoints' classes, a folder a class, or of pictures
            without labels, that are all measured instead of a split.
        per_class: also the accuracy of each class.
        latency: also what each costs: size on disk, parameters, multiply-accumulates, latency.
        forms: with it, in which other forms than eager PyTorch networks are timed, "compiled" and
            "onnx", each of which takes seconds to make. The file that `export` has made of 8-bit
            integers is timed where it lies beside the checkpoint.
        save_logits_to: a safetensors file for "targets" and "logits.LABEL".
        gates: thresholds that every checkpoint must meet.
        trust: whether Python files run that the checkpoints name, and not the caller.

    Raises:
        RecipeInvalid: what was said about the data is wrong. NotFound: a checkpoint or the data is
            not there. Incompatible: classes or images do not fit the data. Untrusted: a checkpoint
            names a Python file.
    """
    check_forms(forms)
    thresholds = gates or GatesSection()
    latency = latency or thresholds.max_latency_ms is not None
    asked = measured_data.asked_for(data, overrides)
    if on is not None and (asked.values or split != "test"):
        raise UsageError(
            f"all pictures in {on} are measured: neither a dataset nor a split goes with that",
            hint="give on alone, or the data",
        )
    folder, runtime = None if on is None else Path(on), Runtime(device, precision="fp32")
    evaluator = CheckpointEvaluator(asked, split=split, runtime=runtime, on=folder)
    evaluator.under_maps_of(checkpoints)
    with trusting([asked.get("data", "name")], everything=trust):
        measured = [
            evaluator.answers(checkpoint, taps=(lambda _: ()) if latency else None)
            for checkpoint in checkpoints
        ]
        costs = Costs(measured, forms) if latency else None
        other = thresholds.not_below
        release = None if other is None else evaluator.answers(other).measures
        measured, beside, unknown = beside_teachers(measured, evaluator, thresholds)
    labels = distinct(item.label for item in measured)
    if save_logits_to is not None:
        tensors = {
            f"logits.{label}": item.logits for label, item in zip(labels, measured, strict=True)
        }
        save_logits(save_logits_to, {"targets": measured[0].targets, **tensors}, measured[0])
    evaluations = tuple(
        _evaluation(item, costs, per_class=per_class, on=folder) for item in measured
    )
    subjects = labels if len(labels) > 1 else [""]
    rows = zip(evaluations, measured, subjects, beside, strict=True)
    results = tuple(
        gate
        for item, found, subject, near in rows
        for gate in check_gates(
            thresholds,
            _held(item, found, near, release, thresholds),
            subject=subject,
        )
    )
    unknown[:0] = costs.left_out if costs else ()
    return EvaluateResult(evaluations, _pairs(measured, labels), results, tuple(unknown))


class Costs:
    """What checkpoints cost, and the teachers that their runs name; each is measured once.

    Args:
        measured: with an image. forms: as for `evaluate`.

    left_out: a sentence for each form that a network could not be had in.
    """

    def __init__(self, measured: Sequence[Answers], forms: Sequence[Form] = ()) -> None:
        self._forms: tuple[Form, ...] = (*dict.fromkeys(forms), "int8")
        self.left_out: list[str] = []
        self._known = {Path(item.checkpoint).resolve(): self._own(item) for item in measured}
        self._teachers = {item.checkpoint: self._taught(item) for item in measured}

    def of(self, item: Answers) -> Cost:
        """That of one of the checkpoints."""
        return self._known[Path(item.checkpoint).resolve()]

    def of_teachers(self, item: Answers) -> Mapping[str, Cost]:
        """Those of the teachers of its run that are still there, by checkpoint."""
        return self._teachers[item.checkpoint]

    def _own(self, item: Answers) -> Cost:
        assert item.image is not None
        return self._cost(item.network, item.image, item.checkpoint)

    def _cost(self, network: Network, image: Tensor, checkpoint: str) -> Cost:
        return cost(
            network,
            image,
            checkpoint=checkpoint,
            timed=True,
            forms=self._forms,
            left_out=self.left_out,
        )

    def _taught(self, item: Answers) -> dict[str, Cost]:
        found: dict[str, Cost] = {}
        for name in _teachers_of(Path(item.checkpoint)):
            with suppress(KdError):  # a teacher that cannot be had is no reason not to measure
                path = find_checkpoint(name)
                if path.resolve() not in self._known:
                    network, header, _ = load_network(path)
                    assert item.image is not None
                    # of its own size, as in the run; what it costs does not depend on the pixels
                    image = item.image.new_zeros((1, *header.input_shape))
                    network.to(image.device).eval()
                    self._known[path.resolve()] = self._cost(network, image, str(path))
                found[name] = self._known[path.resolve()]
        return found


def _teachers_of(checkpoint: Path) -> tuple[str, ...]:
    """The checkpoints of the teachers that the summary beside a run's result names."""
    if checkpoint.name != MODEL_FILE:
        return ()
    try:
        summary = Run.load(checkpoint.parent).summary
    except KdError:
        return ()
    taught = summary.teachers if summary else ()
    return tuple(from_here(checkpoint.parent, each.checkpoint) for each in taught)


def _evaluation(
    item: Answers, costs: Costs | None, *, per_class: bool, on: Path | None
) -> Evaluation:
    names = item.info.class_names
    return Evaluation(
        checkpoint=item.checkpoint,
        network=item.architecture,
        parameters=item.parameters,
        method=item.method,
        data=item.info.name,
        measures=item.measures,
        per_class=per_class_accuracy(item.logits, item.targets, names)
        if per_class and not is_bare(item.targets)
        else {},
        source=item.source,
        trained_on_them=item.trained_on_them,
        on="" if on is None else str(on),
        notes=() if on is None else item.info.notes,
        cost=costs.of(item) if costs else None,
        teacher_costs=costs.of_teachers(item) if costs else {},
    )


def _held(
    item: Evaluation, found: Answers, near: Beside, release: Measures | None, gates: GatesSection
) -> Held:
    """A checkpoint as gates see it.

    Raises:
        Incompatible: there are no labels, and a gate needs them.
    """
    if is_bare(found.targets):
        check_gates_of_labels(gates, f"pictures that {found.label} is measured on")
    shares = item.per_class
    if gates.min_class_accuracy is not None and not shares:
        shares = per_class_accuracy(found.logits, found.targets, found.info.class_names)
    return Held(
        item.measures,
        by_class=with_counts(shares, found.targets),
        parameters=item.parameters,
        cost=item.cost,
        release=release,
        agreement=near.agreement,
        teacher=near.teacher,
    )


def _pairs(measured: Sequence[Answers], labels: Sequence[str]) -> tuple[PairTest, ...]:
    """McNemar's test for every two checkpoints that were measured on the same images."""
    pairs = []
    for (a, first), (b, second) in itertools.combinations(zip(labels, measured, strict=True), 2):
        if not is_bare(first.targets) and torch.equal(first.targets, second.targets):
            right, other = (item.logits.argmax(-1) == item.targets for item in (first, second))
            difference = float(other.double().mean() - right.double().mean())
            method = first.method if _two_seeds(first, second) else ""
            pairs.append(PairTest(a, b, difference, mcnemar(right, other), method))
    return tuple(pairs)


def _two_seeds(first: Answers, second: Answers) -> bool:
    """Whether nothing that their checkpoints say of how they were made differs but the seed, nor
    what the recipes say that lie beside them.
    """
    made = [
        (item.architecture, item.method, item.method_options, item.epochs, item.teachers)
        for item in (first, second)
    ]
    if not first.method or first.seed == second.seed or made[0] != made[1]:
        return False
    recipes = [_learnt_by(item.checkpoint) for item in (first, second)]
    return None in recipes or recipes[0] == recipes[1]


def _learnt_by(checkpoint: str) -> dict[str, Any] | None:
    """What the recipe beside a checkpoint says of how it learnt; None where there is none."""
    path = Path(checkpoint)
    folder = path if path.is_dir() else path.parent
    try:
        _, recipe = read_recipe(folder / RECIPE_FILE)
    except KdError:
        return None
    return {
        name: {
            key: value
            for key, value in recipe[name].items()
            if key not in NOT_CONTENT.get(name, ())
        }
        for name in ("data", "model", "student", "method", "train", "optim", "schedule")
        if isinstance(recipe.get(name), Mapping)
    }
