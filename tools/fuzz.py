"""`make fuzz`: the inputs of tests/fuzz, made by a fuzzer that follows what they reach.

    python -m tools.fuzz [--seconds 600] [recipe arguments checkpoint run]

Each target runs in a process of its own, for its share of the time; the first input that breaks one
is kept under .cache/fuzz and shown, and the exit code is 1. Needs atheris (`pip install atheris`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

KEPT = Path(".cache/fuzz")
TARGETS = ("recipe", "arguments", "checkpoint", "run")


def main() -> int:
    """Runs the targets one after another; returns 1 if one was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--alone", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all unless given")
    given = parser.parse_args()
    chosen = given.targets or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if given.alone:
        fuzz(given.alone, given.seconds)
    share = max(1, given.seconds // len(chosen))
    broken = [name for name in chosen if _alone(name, share)]
    print(f"broken: {', '.join(broken)}" if broken else "nothing broke")
    return int(bool(broken))


def _alone(target: str, seconds: int) -> bool:
    print(f"fuzz: {target}, {seconds} s", flush=True)
    command = [sys.executable, "-m", "tools.fuzz", "--alone", target, "--seconds", str(seconds)]
    return subprocess.run(command, check=False).returncode != 0


def fuzz(target: str, seconds: int) -> None:
    """Feeds one target for some time; does not return."""
    import atheris

    with atheris.instrument_imports(include=["kdcli"]):
        from tests.fuzz import test_fuzz
    tests: dict[str, Any] = {
        "recipe": test_fuzz.test_a_recipe,
        "arguments": test_fuzz.test_arguments,
        "checkpoint": test_fuzz.test_a_checkpoint,
        "run": test_fuzz.test_a_run,
    }
    corpus = KEPT / target
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=60", "-rss_limit_mb=4096"]
    found = [f"-artifact_prefix={corpus}-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *found], tests[target].hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
