"""Errors as people see them: all problems at once, each at its place, each with what to do."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import Incompatible, OutOfMemory

RECIPE = """\
extends = "quickstart"
[data]

name = "digitz"

[train]
epoch = 240
[optim]
lr = -0.05
"""

SCREEN = """\
error: 4 problems in skd.toml

  data.name: 'digitz' is not a dataset
    ╭─ skd.toml:4:8
  4 │ name = "digitz"
    │        ────────  did you mean 'digits'?  (kd datasets lists all COUNT)

  train.epoch: unknown key
    ╭─ skd.toml:7:1
  7 │ epoch = 240
    │ ─────  did you mean "epochs"?

  optim.lr: must be greater than 0, got -0.05                       skd.toml:9:6

  method.temprature: unknown option of skd                          --set method.temprature=2
    did you mean "temperature"?  skd takes: temperature, weight, align, multiplier, ce_logits, weight_schedule  (kd methods skd)
"""


def test_all_problems_of_a_recipe(kd, tmp_path):
    from kdcli import catalog

    (tmp_path / "skd.toml").write_text(RECIPE)
    answer = kd("distill", "skd.toml", "--set", "method.temprature=2")
    assert answer.code == 2
    assert answer.err == SCREEN.replace("COUNT", str(len(catalog.entries("dataset"))))


def test_syntax_errors_are_placed_where_the_parser_stopped(kd, tmp_path):
    (tmp_path / "r.toml").write_text("seed = \n")
    err = kd("distill", "r.toml").err
    assert "r.toml:1:8" in err
    assert "  1 │ seed = " in err


def test_a_runtime_error_has_cause_and_remedy(kd, pretend):
    remedy = (
        "kd distill r.toml -s train.batch_size=256 -s train.accumulate=2      (same effective "
        "batch)"
    )
    error = OutOfMemory(
        "out of GPU memory at stage distill, epoch 1, step 1 (batch 512, resnet50, bf16)",
        hint=remedy,
    )
    error.crash_file = Path("runs/x/crash.txt")
    pretend("distill", error)
    assert kd("distill").err == (
        "error: out of GPU memory at stage distill, epoch 1, step 1 (batch 512, resnet50, bf16)\n"
        "  try:  kd distill r.toml -s train.batch_size=256 -s train.accumulate=2      (same "
        "effective batch)\n"
        "  traceback  runs/x/crash.txt\n"
    )


def test_a_mismatch_says_what_would_fit(kd, pretend):
    pretend(
        "distill",
        Incompatible(
            "teacher predicts 100 classes, cifar10 has 10",
            hint="-d cifar100, or a teacher trained on cifar10",
        ),
    )
    assert kd("distill").err == (
        "error: teacher predicts 100 classes, cifar10 has 10\n  try:  -d cifar100, or a "
        "teacher trained on cifar10\n"
    )


def test_a_hint_that_is_a_sentence_is_not_something_to_try(kd):
    assert kd("methods", "skdd").err == (
        "error: 'skdd' is not a method\n  did you mean 'skd'?  (kd methods lists all COUNT)\n"
    ).replace("COUNT", str(_count("method")))


def test_a_bug_is_one_sentence(kd, pretend):
    pretend("distill", KeyError("student"))
    assert (
        kd("distill").err
        == "error: KeyError: 'student'\n  this should not happen; --debug shows the traceback\n"
    )


def test_a_flag_and_a_set_that_disagree_are_not_guessed_at(kd):
    answer = kd("distill", "--epochs", "4", "-s", "train.epochs=3")
    assert answer.code == 2
    assert "--epochs 4 and --set train.epochs=3 disagree" in answer.err


def _count(kind):
    from kdcli import catalog

    return len(catalog.entries(kind))


def test_a_word_of_any_length_is_quoted_as_far_as_a_person_reads(kd):
    answer = kd("a" * 100_000)
    assert answer.code == 2
    assert len(answer.err) < 2000


def test_a_student_that_is_not_there_is_said_to_be_missing(kd):
    answer = kd("analyze-gap", "--student", "runs/nowhere")
    assert answer.code == 2
    assert "no checkpoint at runs/nowhere" in answer.err
