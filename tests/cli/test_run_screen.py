"""What a run shows: on a terminal, in a log, in GitHub Actions; with and without colour and
UTF-8.
"""

from __future__ import annotations

import io
import itertools
import re

import pytest

from kdcli import jobs
from kdcli.cli.console import Environment, to_ascii
from kdcli.cli.output.log_throttle import EpochThinning, StepThinning
from kdcli.cli.output.progress import EpochTable, LiveNarrator, LogNarrator
from kdcli.engine.events import Compiling, EpochDone, StageDone, StageStarted
from kdcli.formatting import plural
from kdcli.report.findings.run import gate_sentence
from kdcli.results.measures import GateResult
from tests.cli.conftest import Terminal, prepared, result, training

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

LOG = """\
kd 0.1.0 · distill · run runs/skd-cnn-small-digits-1
  teacher  cnn-large   638 k  98.9 %
  student  cnn-small  20.5 k          31× smaller
  method   skd        temperature 4 · weight 0.9   arXiv:2010.07485
  data     digits     1437 train · 360 test · 10 classes · 1×8×8
  device   cpu x86_64 · fp32
           auto: no CUDA device here
           auto: on cpu
  train    2 epochs × 23 steps · batch 64 · sgd lr 0.05 → cosine
  note     student cnn-small: the smaller sibling

TIME stage=distill epoch=1/2 step=23/46 lr=0.05 ce=0.231 skd=1.902 train_acc=0.690 val_acc=0.878 img_s=21034
TIME stage=distill epoch=2/2 step=46/46 lr=0.05 ce=0.231 skd=1.902 train_acc=0.940 val_acc=0.978 img_s=21034

  report   runs/skd-cnn-small-digits-1/report.md          6.3 s
  next     kd analyze-gap --student runs/skd-cnn-small-digits-1
"""
RESULT = """\
  test split · n = 360 · last epoch
           accuracy    NLL    ECE  entropy  free energy
  teacher    98.9 %  0.097  0.021    0.031        11.42
  student    97.2 %  0.097  0.021    0.112        11.38
  gap       −1.7 pt                 +0.081        +0.04  (τ = 1, raw logits)
  aligned                           +0.020        +0.01  (τ = 1, in the loss)
"""


@pytest.fixture
def digits(pretend):
    """A distillation of two epochs."""
    events = [prepared(epochs=2, notes=("student cnn-small: the smaller sibling",)), *training(2)]
    return pretend("distill", result(), events)


def test_log_where_stderr_is_no_terminal(kd, digits):
    answer = kd("distill")
    assert STAMP.sub("TIME", answer.err) == LOG
    assert answer.out == RESULT


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"TERM": "dumb"}])
def test_no_cursor_control_in_ci_and_on_a_dumb_terminal(kd, digits, environ):
    err = kd("distill", stderr=Terminal(), environ={"COLUMNS": "100", **environ}).err
    assert "stage=distill epoch=2/2" in err
    assert not re.search(r"\x1b\[[0-9;?]*[A-HJKhl]", err)


def test_a_terminal_keeps_only_the_epochs_that_matter(kd, pretend):
    pretend("distill", result(), [prepared(epochs=240), *training(240)])
    text = ESCAPE.sub(
        "",
        kd("distill", stderr=Terminal(), environ={"COLUMNS": "80", "TERM": "xterm-256color"}).err,
    ).replace("\r", "\n")
    rows = re.findall(r"^ +(\d+)   0\.0500 .*", text, re.MULTILINE)
    assert rows == ["1", "2", "240"]
    assert "epoch   lr           ce     skd     train       val" in text


def test_verbose_keeps_all_epochs(kd, pretend):
    pretend("distill", result(), [prepared(epochs=12), *training(12)])
    text = ESCAPE.sub(
        "", kd("distill", "-v", stderr=Terminal(), environ={"COLUMNS": "80", "TERM": "xterm"}).err
    ).replace("\r", "\n")
    assert len(re.findall(r"^ +\d+   0\.0500 ", text, re.MULTILINE)) == 12


def test_a_terminal_of_80_columns_is_enough(kd, digits):
    text = ESCAPE.sub(
        "", kd("distill", stderr=Terminal(), environ={"COLUMNS": "80", "TERM": "xterm"}).err
    )
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 80


def test_a_step_of_the_learning_rate_is_an_epoch_that_matters():
    table = EpochTable(everything=False, by_steps=True)
    rates = {1: 0.05, 2: 0.05, 3: 0.005, 4: 0.005, 5: 0.005}
    events = [
        event for event in training(5, val=False, lr=rates.get) if isinstance(event, EpochDone)
    ]
    lines = [
        line for event in events for line in table.lines(event) if event.at.epoch not in {1, 2, 5}
    ]
    assert [line.split()[0] for line in lines] == ["3"]
    assert lines[0].endswith("lower lr")


def test_quiet_leaves_the_result_and_very_quiet_leaves_nothing(kd, digits):
    assert kd("distill", "-q").out == RESULT
    silent = kd("distill", "-qq")
    assert (silent.out, silent.err) == ("", "")


def test_a_teacher_alone(kd, pretend):
    pretend(
        "train_teacher",
        result("train-teacher", run="runs/t", checkpoint="runs/t/model.safetensors"),
        [prepared("train-teacher")],
    )
    answer = kd("train-teacher")
    lines = answer.err.splitlines()
    assert lines[1] == "  model    cnn-large  20.5 k  parameters"
    assert answer.out == (
        "✓ test accuracy 97.2 %  (n = 360, last epoch)   mean entropy 0.112 nats   6.3 s\n"
    )
    assert lines[-1] == "  next     kd distill --teacher runs/t --student cnn-small"


def test_stages_are_named_where_there_are_several(kd, pretend):
    first, *_ = training(1)
    pretend(
        "distill",
        result(),
        [
            StageStarted(first.at, 1, 2, 23, 10),
            StageDone(first.at, 1, 2),
            StageStarted(first.at, 2, 2, 23, 10),
        ],
    )
    assert "stage 1/2 distill" in kd("distill").err


def test_compiling_is_said_and_how_long_it_took(kd, pretend):
    started, *rest = training(1)
    events = [prepared(), started, Compiling(started.at), Compiling(started.at, 41.0), *rest]
    pretend("distill", result(), events)
    err = kd("distill").err
    assert "  compiling the networks for the first step ...\n  compiled in 41.0 s\n" in err
    now = 3.0
    said = io.StringIO()
    env = Environment(said, Terminal(), {"COLUMNS": "100", "TERM": "xterm"})
    narrator = LiveNarrator(env, lambda: now)
    for event in events[:3]:
        narrator(event)
    bar, task = narrator._bar
    row = next(row for row in bar.tasks if row.id == task)
    now = 8.0
    assert str(row.fields["terms"]) == "compiling the networks for 5.0\N{NO-BREAK SPACE}s"
    narrator(Compiling(started.at, expected=40.0))
    told = str(row.fields["terms"]).replace("\N{NO-BREAK SPACE}", " ")
    assert told == "compiling the networks for 0.0 s of about 40.0 s"
    narrator.close()
    pretend("distill", result(), [*events[:2], Compiling(started.at, expected=40.0), *events[3:]])
    assert "the networks for the first step, about 40.0 s ...\n" in kd("distill").err


def test_the_first_line_stands_before_anything_is_imported_and_gives_way(kd, pretend, monkeypatch):
    first, gone = "kd 0.1.0 · distill ...", "\r\x1b[2K"
    screen, seen = Terminal(), []
    pretend("distill", result(), [prepared(), *training(1)])
    plain = jobs.distill
    monkeypatch.setattr(
        jobs,
        "distill",
        lambda *given, **more: seen.append(screen.getvalue()) or plain(*given, **more),
    )
    terminal = {"COLUMNS": "100", "TERM": "xterm"}
    kd("distill", stderr=screen, environ=terminal)
    assert seen == [first]
    assert screen.getvalue().startswith(first + gone + "\x1b[1mkd ")
    # what stdout gets, an error, and nothing at all
    for argv, out in ((("methods",), 0), (("distill", "--epochs", "0"), 2)):
        said = kd(*argv, stderr=Terminal(), environ=terminal)
        assert said.code == out
        assert said.err.startswith(f"kd 0.1.0 · {argv[0]} ...{gone}")
        assert said.err.count("...") == 1
    for flags, environ in (((), {}), (("-q",), terminal), ((), {**terminal, "CI": "true"})):
        stream = Terminal() if environ else None
        assert first not in kd("distill", *flags, stderr=stream, environ=environ).err


@pytest.mark.parametrize(
    ("limit", "value", "shown"),
    [
        (0.9335, 0.9333, "✗ gate min-accuracy 0.9335 > 0.9333"),
        (0.98, 0.972, "✗ gate min-accuracy 0.980 > 0.972"),
        (0.95, 0.949996, "✗ gate min-accuracy 0.950000 > 0.949996"),
    ],
)
def test_a_missed_gate_has_digits_enough_to_see_that_it_was(kd, pretend, limit, value, shown):
    missed = GateResult("min_accuracy", limit, value, passed=False)
    pretend("distill", result(gates=(missed,)))
    assert shown in kd("distill").err
    assert len(set(re.findall(r"[\d.]+", gate_sentence(missed)))) == 2


def test_gates_have_no_digits_that_nobody_asked_for(kd, pretend):
    """Parameters are a number of things, and another run's accuracy is nobody's choice."""
    gates = (
        GateResult("max_parameters", 5000, 9610, passed=False),
        GateResult("not_below", 0.8722222222, 0.6821972, passed=False),
    )
    pretend("distill", result(gates=gates))
    told = kd("distill").err
    assert "✗ gate max-parameters 5000 < 9610" in told
    assert "✗ gate not-below 0.872 > 0.682" in told
    assert gate_sentence(gates[1]).endswith("at least 87.2\N{NO-BREAK SPACE}% asked for")


def test_one_is_not_several(kd, pretend):
    pretend("distill", result(epochs=1), [prepared(epochs=1, batches=1)])
    assert "  train    1 epoch × 1 step · batch 64" in kd("distill").err
    assert [plural(1, "class"), plural(2, "class")] == [
        "1\N{NO-BREAK SPACE}class",
        "2\N{NO-BREAK SPACE}classes",
    ]


def test_dry_run(kd, pretend):
    calls = pretend("distill", None)
    answer = kd("distill", "--dry-run", "--json")
    assert calls[0]["dry_run"] is True
    assert answer.json["data"] is None
    assert "nothing was written" in answer.err


def test_what_the_job_is_given(kd, pretend, tmp_path):
    calls = pretend("distill", result())
    kd("distill", "--epochs", "3", "-s", "optim.lr=0.1", "--name", "a-b", "--out", "elsewhere")
    (resolved,) = calls[0]["arguments"]
    assert (resolved.recipe.train.epochs, resolved.recipe.optim.lr, resolved.recipe.name) == (
        3,
        0.1,
        "a-b",
    )
    assert resolved.origins["train.epochs"] == "--epochs"
    assert str(calls[0]["out"]) == "elsewhere"
    assert calls[0]["command"] == "kd distill --epochs 3 -s optim.lr=0.1 --name a-b --out elsewhere"
    kd("distill", environ={"KD_RUNS_DIR": "over-there"})
    assert str(calls[1]["out"]) == "over-there"


# ---- colour and encoding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminal", "environ", "argv", "coloured"),
    [
        (True, {"TERM": "xterm-256color"}, (), True),
        (True, {"TERM": "xterm-256color", "NO_COLOR": "1"}, (), False),
        (False, {}, (), False),
        (False, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}, (), True),
        (False, {"TERM": "xterm-256color"}, ("--color", "always"), True),
        (True, {"TERM": "xterm-256color"}, ("--color", "never"), False),
    ],
)
def test_colour(kd, pretend, terminal, environ, argv, coloured):
    pretend("train_teacher", result("train-teacher"))
    out = kd(
        "train-teacher", "-q", *argv, environ=environ, stdout=Terminal() if terminal else None
    ).out
    assert ("\x1b[32m✓" in out) == coloured
    assert "✓ test accuracy" in ESCAPE.sub("", out)


def test_signs_have_a_plain_form():
    class Ascii(io.StringIO):
        encoding = "ascii"

    stream = Ascii()
    env = Environment(io.StringIO(), stream)
    env.report(("✓", "green"), " gate −0.020 ≤ τ · ▁▂▃▄▅▆▇█ ╭─ ‖z‖² … Δ café")
    assert stream.getvalue() == "+ gate -0.020 <= tau - .:-=+*#@ ,- |z|2 ... d caf?\n"
    assert to_ascii("×±≪") == "x+-<<"


def test_a_reader_who_has_gone_is_no_error(kd):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    assert kd("methods", stdout=Closed()).code == 0


# ---- thinning ------------------------------------------------------------------------------------


def test_a_log_of_240_slow_epochs_has_at_most_200_lines():
    now = [0.0]
    stream = io.StringIO()
    narrator = LogNarrator(Environment(io.StringIO(), stream), lambda: now[0])
    for event in training(240):
        narrator(event)
        now[0] += 30
    lines = stream.getvalue().splitlines()
    assert 90 < len(lines) <= 200
    assert "epoch=1/240" in lines[0]
    assert "epoch=240/240" in lines[-1]
    assert "val_acc" in lines[-1]


@pytest.mark.parametrize("epochs", [1, 2, 50, 51, 240, 4000])
def test_thinning_keeps_the_first_epochs_and_the_last(epochs):
    keep = EpochThinning()
    kept = [epoch for epoch in range(1, epochs + 1) if keep(epoch, epochs)]
    assert kept[:50] == list(range(1, min(epochs, 50) + 1))
    assert kept[-1] == epochs
    assert len(kept) <= 200


def test_within_an_epoch_a_line_every_ten_seconds_at_the_most():
    keep = StepThinning(0.0)
    written = [second for second in range(1, 24 * 3600) if keep(float(second))]
    assert written[0] == 10
    gaps = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert min(gaps) >= 10
    assert len(written) <= 80


def test_a_fast_epoch_is_logged_without_lines_in_between(kd, digits):
    err = kd("distill").err
    assert len(re.findall(r"stage=distill", err)) == 2


# ---- GitHub Actions ------------------------------------------------------------------------------


def test_github_groups_and_summary(kd, pretend, tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "report.md").write_text("# A report\n")
    pretend("distill", result(run=str(run)), [prepared(), *training(1)])
    err = kd(
        "distill",
        environ={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")},
    ).err
    assert err.index("::group::distill") < err.index("stage=distill") < err.index("::endgroup::")
    assert "# A report" in (tmp_path / "summary").read_text()


def test_github_annotations_stand_at_the_line(kd, tmp_path):
    (tmp_path / "r.toml").write_text('extends = "quickstart"\n[data]\nname = "digit"\n')
    err = kd("distill", "r.toml", environ={"GITHUB_ACTIONS": "true"}).err
    assert "::error file=r.toml,line=3,col=8::data.name: 'digit' is not a dataset" in err
