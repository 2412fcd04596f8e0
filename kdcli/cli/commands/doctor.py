"""`kd doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

from kdcli.cli.console import Environment
from kdcli.cli.options import DataRoot, Out
from kdcli.cli.output.envelope import ErrorItem, Outcome
from kdcli.cli.text import columns
from kdcli.errors import Exit
from kdcli.runs.find import runs_dir

NAME = "doctor"
EXAMPLES = """
kd doctor
kd doctor --json -q | jq '.data[] | select(.ok == false)'
"""
_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("!", "yellow")}


def run(env: Environment, *, data_dir: DataRoot = None, out: Out = None) -> Outcome:
    """Check versions, devices, disk, folders and datasets.

    Exit code 1 if something that kd needs is broken.
    """
    from kdcli import jobs

    checks = jobs.doctor(str(data_dir) if data_dir else None, out=runs_dir(env.environ, out))
    lines = columns([(check.name, check.detail) for check in checks], indent=1)
    for check, line in zip(checks, lines, strict=True):
        env.answer("  ", _MARKS[check.ok], line)
        if check.hint and not check.ok:
            env.answer(f"      {check.hint}")
    broken = [
        ErrorItem("NOT_READY", f"{check.name}: {check.detail}", check.hint)
        for check in checks
        if check.ok is False
    ]
    return Outcome(checks, errors=tuple(broken), exit_code=Exit.FAILURE if broken else Exit.OK)
