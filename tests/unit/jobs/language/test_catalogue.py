"""Every method of the catalogue on a tiny language model and a tiny classifier of texts: it trains,
goes on bit for bit where it was stopped, and its checkpoint answers as the run did; or it says,
before anything is trained, what it lacks.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from kdcli import catalog
from kdcli.errors import Exit, Incompatible, Interrupted, UsageError
from kdcli.files import sha256_file
from kdcli.jobs import distill, evaluate, resume, train_teacher
from tests.unit.jobs.language import test_runs, test_text_classification
from tests.unit.jobs.language.test_runs import StopAt, text
from tests.unit.jobs.language.test_text_classification import texts

__all__ = ["text", "texts"]  # fixtures

NAMES = catalog.names("method")
QUICK = {("classes", "kd_topk")}  # of those that train, in every run of the tests
MAPS = [
    "ab",
    "afd",
    "at",
    "cat_kd",
    "cwd",
    "diffkd",
    "dist_plus",
    "fitnet",
    "fsp",
    "ft",
    "ickd",
    "kdsvd",
    "mgd",
    "nst",
    "ofa_kd",
    "ofd",
    "one",
    "reviewkd",
    "semckd",
    "sp",
    "srrl",
    "uskd",
    "vid",
    "vitkd",
]
NO_MAPS = {name: f"{name} compares feature maps, and text gives networks none" for name in MAPS}
NO_TOKENS = {"deit": "deit reads the tokens of a vision transformer"}
LACKS: dict[str, dict[str, str]] = {
    "language": {
        **NO_MAPS, **NO_TOKENS, "ta": "ta needs an assistant", "dgkd": "dgkd needs an assistant",
        "simkd": "embeds words by the weights of its last layer",
    },
    "classes": {**NO_MAPS, **NO_TOKENS},
}  # fmt: skip
DIVERGENCES = ("reverse", "symmetric", "js")
NEEDS = {
    "kd_topk": {"method.k": {"language": 5, "classes": 2}},
    "kd_rel": {"method.superclasses": {"language": [[*range(6)], [*range(6, 12)]], "classes": [[0, 1], [2]]}},
    "kd_pt_rel": {"method.superclasses": {"language": [[*range(6)], [*range(6, 12)]], "classes": [[0, 1], [2]]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(text, texts, tmp_path_factory):
    """Settings of each task, with a teacher that kept checkpoints."""
    out = tmp_path_factory.mktemp("catalogue")
    language = {**test_runs.settings(text), "train.epochs": 2, "data.window": 20}
    classes = {
        **test_text_classification.settings(texts),
        "train.epochs": 2,
        "train.batch_size": 24,
    }
    train_teacher(
        out=out,
        name="language",
        overrides={**language, **test_runs.network("model", hidden=12), "train.keep_every": 1},
    )
    wide = {"model.name": "text_encoder", "model.width": 8, "model.layers": 1, "model.heads": 2}
    train_teacher(out=out, name="classes", overrides={**classes, **wide, "train.keep_every": 1})
    small = {"student.name": "lstm_small", "student.embedding": 6, "student.hidden": 6}
    bag = {"student.name": "bag_of_words", "student.width": 6}
    return SimpleNamespace(
        out=out, settings={"language": {**language, **small}, "classes": {**classes, **bag}}
    )


def values(tasks, task, name, **changes):
    facts = catalog.entry("method", name).facts
    least, most = facts.get("teachers") or (1, 1)
    own = catalog.options_class(catalog.entry("method", name)).model_fields
    short = {
        f"method.{key}": 1 for key in own if key.endswith("_epochs") and key != "kd_stop_epoch"
    }
    needs = {key: value[task] for key, value in NEEDS.get(name, {}).items()}
    path = str(tasks.out / task)
    taught = (
        {"teacher": [{"checkpoint": path}] * max(least, 1)}
        if most != 0
        else {"report.reference": path}
    )
    return {**tasks.settings[task], "method.name": name, **short, **needs, **taught, **changes}


def told(tasks, task, name, out):
    """What a method lacks, before anything is trained."""
    with pytest.raises((Incompatible, UsageError)) as caught:
        distill(out=out, overrides=values(tasks, task, name))
    assert caught.value.exit_code == Exit.USAGE
    assert not list(out.iterdir())
    return f"{caught.value} {getattr(caught.value, 'diagnostics', '')}"


def trains(tasks, task, name, out, **changes):
    given = {**values(tasks, task, name, **changes), "train.state_seconds": 1e-9}
    whole = distill(out=out, name="whole", overrides=given)
    assert math.isfinite(whole.test.nll)
    with pytest.raises(Interrupted):
        distill(out=out, name="cut", overrides=given, listeners=[StopAt(5)])
    assert resume(out / "cut").test == whole.test
    one, other = (sha256_file(out / run / "model.safetensors") for run in ("cut", "whole"))
    assert one == other
    (again,) = evaluate([out / "whole"]).evaluations
    assert again.measures.nll == pytest.approx(whole.test.nll, rel=1e-6)


CASES = [(task, name) for task in LACKS for name in NAMES]


@pytest.mark.parametrize(("task", "name"), [case for case in CASES if case[1] in LACKS[case[0]]])
def test_a_method_says_before_training_what_it_lacks(tasks, task, name, tmp_path):
    assert LACKS[task][name] in told(tasks, task, name, tmp_path)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        pytest.param(task, name, marks=() if (task, name) in QUICK else pytest.mark.slow)
        for task, name in CASES
        if name not in LACKS[task]
    ],
)
def test_a_method_trains_and_goes_on_bit_for_bit(tasks, task, name, tmp_path):
    trains(tasks, task, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", LACKS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_of_kd_trains(tasks, task, divergence, tmp_path):
    trains(tasks, task, "kd", tmp_path, **{"method.divergence": divergence})
