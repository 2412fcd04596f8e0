"""Help: every command has it, its examples parse, and global options stand before or after the
command.
"""

from __future__ import annotations

import functools
import resource
import shlex
import subprocess
import sys

import pytest

from kdcli import __version__
from kdcli.cli import app as application
from kdcli.cli.output.envelope import Outcome
from tests.cli.conftest import result

MODULES = [application.module(name) for name in application.names()]
NAMES = [
    name
    for module in MODULES
    for name in (
        [module.NAME] + [f"{module.NAME} {sub}" for sub, *_ in getattr(module, "COMMANDS", ())]
    )
]
EXAMPLES = [line for module in MODULES for line in module.EXAMPLES.strip().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command(kd, name):
    answer = kd(*name.split(), "--help")
    assert answer.code == 0


def test_modules_and_commands_have_one_name():
    assert [module.NAME for module in MODULES] == list(application.names())


def test_the_list_shows_what_each_help_begins_with(capsys, kd):
    kd("--help")
    shown = capsys.readouterr().out
    for module in MODULES:
        doc = module.__doc__ if hasattr(module, "COMMANDS") else module.run.__doc__
        assert f"{module.NAME:<13}  {doc.splitlines()[0]}" in shown


def test_the_tree(capsys, kd):
    kd("--help")
    text = capsys.readouterr().out
    panels = [
        line.removesuffix(":")
        for line in text.splitlines()
        if line.endswith(":") and not line.startswith(" ")
    ]
    assert panels[:7] == ["Train", "Measure", "Use", "Search", "Explore", "Project", "System"]
    assert all(len(line) <= 80 for line in text.splitlines())


def test_examples_are_two_or_three_and_shown(capsys, kd):
    for module in MODULES:
        lines = module.EXAMPLES.strip().splitlines()
        assert 2 <= len(lines) <= 3, module.NAME
        kd(module.NAME, "--help")
        shown = capsys.readouterr().out
        assert all(line in shown for line in lines)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_parse(kd, monkeypatch, line):
    seen = []

    def recorder(function):
        @functools.wraps(function)
        def record(env, **options):
            seen.append(options)
            return Outcome()

        return record

    for module in MODULES:
        if hasattr(module, "COMMANDS"):
            monkeypatch.setattr(
                module,
                "COMMANDS",
                tuple((name, recorder(function), text) for name, function, text in module.COMMANDS),
            )
        else:
            monkeypatch.setattr(module, "run", recorder(module.run))
    monkeypatch.setattr(application, "command_tree", application.command_tree.__wrapped__)
    words = shlex.split(line.partition("|")[0].partition(">")[0])
    answer = kd(*words[1:])
    assert answer.code == 0, answer.err
    assert len(seen) == 1


@pytest.mark.parametrize(
    "argv", [("--json", "-q", "distill"), ("distill", "-q", "--json"), ("-q", "distill", "--json")]
)
def test_global_options_before_and_after(kd, pretend, argv):
    pretend("distill", result())
    answer = kd(*argv)
    assert answer.json["status"] == "ok"


def test_quiet_adds_up(kd, pretend):
    pretend("distill", result())
    assert kd("-q", "distill").err != ""
    assert kd("-q", "distill", "-q").err == ""
    assert kd("distill", "-qq").err == ""


@pytest.mark.parametrize("argv", [("--version",), ("distill", "--version")])
def test_version(kd, argv):
    answer = kd(*argv)
    assert (answer.code, answer.out) == (0, f"kd {__version__}\n")


@pytest.mark.parametrize(
    ("typed", "meant"), [("distil", "distill"), ("method", "methods"), ("evalute", "evaluate")]
)
def test_a_mistyped_command_is_suggested(kd, typed, meant):
    answer = kd(typed)
    assert answer.code == 2
    assert f"'{meant}'" in answer.err


def loaded_after(*argv: str) -> set[str]:
    probe = f"""
import sys
from kdcli.__main__ import main
sys.argv = {["kd", *argv]!r}
try:
    main()
except SystemExit as end:
    assert not end.code
print(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("argv", [("--help",), ("distill", "--help"), ("methods",)])
def test_what_only_reads_imports_nothing_heavy(argv):
    assert not loaded_after(*argv) & {"torch", "pydantic", "matplotlib", "numpy", "rich"}


def test_help_is_there_at_once():
    def seconds() -> float:
        """Of processor time, which other work on the machine stretches less than it does a
        clock.
        """
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "kdcli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.45, "0.2 s on an idle machine"
