"""Runs on text: trained, distilled, measured, stopped and gone on with, as on pictures."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import weakref
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdcli.analysis.metrics import Tally, measure
from kdcli.engine.evaluator import collect
from kdcli.errors import Exit, Incompatible, Interrupted, UsageError
from kdcli.files import read_json, sha256_file
from kdcli.jobs import analyze_gap, distill, evaluate, predict, resume, train_teacher
from kdcli.jobs.events import StepDone
from kdcli.results.weights_header import read_header
from kdcli.runs.find import finished_runs
from tests.unit.data.test_text import feed

WORDS = ("the", "cat", "dog", "sees", "hears", "a", "bird", "and", "no", "fish")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text whose next word is mostly decided by the one before it."""
    folder = tmp_path_factory.mktemp("text")
    state, lines = 1, []
    for _ in range(260):
        line = []
        for _ in range(7):
            state = (state * 48271) % 2147483647
            line.append(WORDS[(len(line) * 3 + state % 3) % len(WORDS)])
        lines.append(" ".join(line))
    (folder / "train.txt").write_text("\n".join(lines[:200]) + "\n")
    (folder / "valid.txt").write_text("\n".join(lines[200:230]) + "\n")
    (folder / "test.txt").write_text("\n".join(lines[230:]) + "\n")
    return folder


def settings(text, **changes):
    return {
        "data.name": "text",
        "data.path": str(text),
        "data.window": 7,
        "data.random_windows": True,
        "train.epochs": 3,
        "train.batch_size": 8,
        "train.clip_norm": 0.25,
        "optim.name": "adamw",
        "optim.lr": 0.05,
        "report.html": False,
        "report.latency": False,
        **changes,
    }


LARGE = {
    "name": "awd_lstm", "embedding": 12, "hidden": 20, "layers": 2, "dropout_embedding": 0.0, "dropout": 0.1,
    "dropout_input": 0.1, "weight_drop": 0.2, "ar": 0.01, "tar": 0.01,
}  # fmt: skip


def network(key, **options):
    return {f"{key}.{name}": value for name, value in {**LARGE, **options}.items()}


@pytest.fixture(scope="module")
def made(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    values = {
        **settings(text),
        **network("model"),
        "train.average_after": 1,
        "train.select": "best",
    }
    teacher = train_teacher(out=out, name="teacher", overrides=values)
    student = distill(
        out=out,
        name="student",
        overrides={
            **settings(text),
            "teacher.checkpoint": str(out / "teacher"),
            "student.name": "lstm_small",
            "student.embedding": 8,
            "student.hidden": 8,
            "method.name": "kd",
        },
    )
    return SimpleNamespace(out=out, teacher=teacher, student=student)


def test_a_run_is_judged_by_perplexity(made):
    test = made.teacher.test
    assert test.perplexity == math.exp(test.nll)
    assert test.perplexity < len(WORDS)  # it has learnt something of what follows what
    assert made.teacher.train_losses.keys() == {"ce", "ar", "tar"}
    said = (made.out / "teacher" / "report.md").read_text()
    assert f"has a perplexity of {test.perplexity:.2f} on" in said
    assert "image" not in said.partition("## How to reproduce")[0].replace("image-class", "")
    card = (made.out / "teacher" / "MODEL_CARD.md").read_text()
    assert '"task": {"type": "text-generation"}' in card
    assert 'metrics: ["perplexity"]' in card
    assert "image" not in card
    assert made.student.gap is not None
    _, header = read_header(made.out / "student")
    assert header.class_names[:2] == ("<unk>", "<eos>")
    assert header.data_fingerprint == read_json(made.out / "teacher" / "environment.json")["data"]["fingerprint"]  # fmt: skip


def test_a_checkpoint_measures_as_its_run_did(made):
    found = evaluate([made.out / "student", made.out / "teacher"])
    for one, run in zip(found.evaluations, (made.student, made.teacher), strict=True):
        assert one.measures.nll == pytest.approx(run.test.nll, rel=1e-6)
    report = analyze_gap(made.out / "teacher", [made.out / "student"])
    raw = next(pair for pair in report.pairs if pair.form == "raw")
    assert raw.at[0].entropy.value == pytest.approx(made.student.gap.entropy, abs=1e-6)
    assert report.explanation is None


class StopAt:
    def __init__(self, step):
        self.left = step

    def __call__(self, event):
        if isinstance(event, StepDone):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("step", [9, 37])
def test_a_stopped_run_goes_on_bit_for_bit(made, text, tmp_path, step, monkeypatch):
    values = {
        **settings(text), **network("student"), "teacher.checkpoint": str(made.out / "teacher"),
        "method.name": "kd", "train.state_seconds": 1e-9,
    }  # fmt: skip
    whole = distill(out=tmp_path, name="whole", overrides=values)
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopAt(step)])
    again = resume(tmp_path / "cut")
    assert sha256_file(tmp_path / "cut" / "model.safetensors") == sha256_file(
        tmp_path / "whole" / "model.safetensors"
    )
    assert again.test == whole.test


@pytest.mark.parametrize("method", ["skd", "dkd", "kd_topk", "dist", "logit_std", "seqkd"])
def test_methods_on_logits_work_as_they_are(made, text, tmp_path, method):
    values = {
        **settings(text, **{"train.epochs": 1}), **network("student", dropout_hidden=0.0),
        "method.name": method, "teacher.checkpoint": str(made.out / "teacher"),
    }  # fmt: skip
    run = distill(out=tmp_path, overrides=values)
    assert run is not None
    assert math.isfinite(run.test.perplexity)
    if method == "skd":  # its loss leaves the scale free, and held-out text fits it
        assert run.calibration is not None
        assert run.calibration.temperature is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method.name": "at"}, "at compares feature maps, and text gives networks none"),
        ({"method.name": "kd_topk", "method.k": 99}, "and text has 12 classes"),
        ({"data.vocabulary": 5}, "the vocabulary of the teacher is not that of text: it has 12 words"),
        ({"data.augment.flip": True}, "text has no pictures"),
        ({"data.per_class": 3}, "not samples of classes to choose among"),
        ({"student.name": "resnet20"}, "resnet20 is a network for image classification"),
        ({"student.name": "gpt_small", "student.context": 50}, "the network reads 50 tokens at once, and a window has 7"),
        ({"teacher.cache": "exact", "method.name": "seqkd"}, "text that it wrote itself"),
        ({"teacher.cache_top": 12}, "teacher.cache_top is 12, and the vocabulary has 12 tokens"),
        ({"runtime.compile": "on"}, "none is compiled for"),
    ],
)  # fmt: skip
def test_what_text_cannot_do_is_told_before_training(made, text, tmp_path, changes, told):
    values = {
        **settings(text), "teacher.checkpoint": str(made.out / "teacher"), "student.name": "lstm_small", **changes,
    }  # fmt: skip
    with pytest.raises((Incompatible, UsageError)) as caught:
        distill(out=tmp_path, overrides=values)
    assert told in f"{caught.value} {getattr(caught.value, 'diagnostics', '')}"
    assert caught.value.exit_code == Exit.USAGE
    assert not finished_runs(tmp_path)


def test_a_gpt_learns_what_an_lstm_knows(made, text, tmp_path):
    values = {
        **settings(text), "data.random_windows": False, "student.name": "gpt_small", "student.width": 12,
        "student.heads": 2, "student.context": 7, "student.dropout": 0.1, "optim.lr": 0.01,
        "teacher.checkpoint": str(made.out / "teacher"), "method.name": "kd", "train.state_seconds": 1e-9,
    }  # fmt: skip
    whole = distill(out=tmp_path, name="whole", overrides=values)
    assert whole.test.perplexity < len(WORDS)
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopAt(40)])
    assert resume(tmp_path / "cut").test == whole.test


def test_what_follows_a_token_is_no_class(made):
    with pytest.raises(Incompatible, match="says which token follows those before it"):
        predict(made.out / "teacher", ["the cat sees"])


def test_a_gate_on_perplexity(made):
    gates = evaluate([made.out / "teacher"], gates=_gates(2.0)).gates
    assert [(gate.name, gate.passed) for gate in gates] == [("max_perplexity", False)]
    assert evaluate([made.out / "teacher"], gates=_gates(99.0)).gates[0].passed


def _gates(limit):
    from kdcli.recipe.schema import GatesSection

    return GatesSection(max_perplexity=limit)


def test_measures_of_all_rows_while_few_are_kept():
    batches, table = feed(401), torch.randn(7, 7)

    def forward(batch):
        return table[batch.x.flatten()]

    logits, targets = collect(forward, batches.split("train"))
    tally = Tally()
    kept, labels = collect(forward, batches.split("train"), every=7, seen=tally.add)
    assert torch.equal(kept, logits[::7])
    assert torch.equal(labels, targets[::7])
    whole, streamed = measure(logits, targets), tally.measures(split="test", selected="last")
    assert whole == streamed


def test_numbers_of_a_row_are_added_up_where_there_are_many(monkeypatch):
    from kdcli.analysis import metrics

    batches, table = feed(401), 3 * torch.randn(7, 7)

    def forward(batch):
        return table[batch.x.flatten()]

    whole, added = Tally(), Tally()  # kept, and added up
    collect(forward, batches.split("train"), seen=whole.add)
    monkeypatch.setattr(metrics, "_SETTLED_ROWS", 50)
    collect(forward, batches.split("train"), seen=added.add)
    assert added._pending < 50
    one, other = (asdict(tally.measures(split="test", selected="last")) for tally in (whole, added))
    assert other.keys() == one.keys()
    for name, value in other.items():
        assert value == (pytest.approx(one[name], rel=1e-6) if type(value) is float else one[name])


def _live_bytes():
    """Bytes of all tensors that somebody holds."""
    held = {}
    for item in gc.get_objects():
        if type(item) is torch.Tensor and item.device.type == "cpu":
            storage = item.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


@pytest.mark.slow
def test_memory_is_flat_in_the_length_of_a_text(monkeypatch):
    """What is held while a text is measured: 16 MiB of rows of logits, a place and a target of each,
    and the numbers of the last rows; eight times the text takes no more.
    """
    from kdcli.core import task
    from kdcli.data.text import Text, TextFeed
    from kdcli.jobs.measure.answers import found

    monkeypatch.setattr(task, "KEPT_BYTES", 1 << 24)
    most, classes = {}, 500
    for count in (32_000, 256_000):
        tokens = torch.arange(count + 1) * 7919 % classes
        source = Text(tokens[:200], tokens[:0], tokens, tuple(map(str, range(classes))))
        feed = TextFeed(
            source, name="text", batch_size=2, eval_batch_size=512, val_fraction=0.0, seed=0, device="cpu"
        )  # fmt: skip
        before, calls, seen, table = _live_bytes(), [], [], torch.randn(64, classes)

        def forward(batch, calls=calls, seen=seen, table=table):
            calls.append(None)
            if len(calls) % 20 == 0:
                seen.append(_live_bytes())
            return table[batch.x.flatten() % 64] * 1.0

        found(forward, feed.split("test"), feed.info, feed.size("test"), split="test")
        most[count] = max(seen) - before
    assert most[256_000] < 1.1 * most[32_000]
    assert most[256_000] < 1.5 * (1 << 24)


_GROWTH = """
import torch
from benchmarks.processes import resident_mib
from kdcli.data.text import Text, TextFeed
from kdcli.engine.memory import keep_memory
from kdcli.jobs.measure.answers import found

keep_memory()  # as every run has it
torch.set_num_threads(1)
tokens = torch.arange(40_001) * 7919 % 2000
text = Text(tokens[:200], tokens[:0], tokens, tuple(map(str, range(2000))))
feed = TextFeed(
    text, name="text", batch_size=2, eval_batch_size=512, val_fraction=0.0, seed=0, device="cpu"
)
table, head = torch.randn(64, 64), torch.nn.Linear(64, 2000)
before = resident_mib()
found(
    lambda batch: head(table[batch.x.flatten() % 64]),
    feed.split("test"), feed.info, feed.size("test"), split="test",
)
print(resident_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: nothing tells")
def test_what_a_long_text_leaves_behind_does_not_break_up_the_memory():
    """Small tensors that are kept from window to window, among large ones that come and go, made
    it take 2.4 GB, where 0.25 GB of logits are kept.
    """
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH], capture_output=True, check=True, cwd=root
    )
    assert float(done.stdout) < 4 * 256


def test_what_is_kept_of_a_long_text_is_bounded():
    """The logits of a text four times as long take no more memory, where one row of many is kept."""
    from kdcli.jobs.measure.reading import Reading

    kept = {}
    for words in (400, 1600):
        batches, table = feed(words), torch.randn(7, 7)
        every, tally = -(-batches.size("train") // 50), Tally()
        reading, held = Reading(batches.info, every), []

        def forward(batch, table=table, held=held):
            logits = table[batch.x.flatten()]
            held.append(weakref.ref(logits.untyped_storage()))
            return logits

        logits, _ = collect(
            forward, reading.over(batches.split("train")), every=every, seen=tally.add
        )
        # of no minibatch the whole answer is still there
        assert len(held) > 5
        assert not [each for each in held if each() is not None]
        kept[words] = logits.untyped_storage().nbytes()
    assert kept[1600] <= kept[400] * 1.2
