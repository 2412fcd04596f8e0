"""The commands in README and docs work: each page is followed from top to bottom in a folder of its
own.

`sh` blocks are executed, a block under `<!-- file: NAME -->` is written to that file first, and
`<!-- exit N -->` says that the next block ends with that code. Training is cut to one epoch, in
this process, so that torch is imported once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.jobs import train_teacher

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/tutorial/first-distillation.md",
    "docs/how-to/ci.md",
    "docs/how-to/explain-a-gap.md",
    "docs/how-to/own-data.md",
    "docs/how-to/own-method.md",
    "docs/how-to/own-network.md",
    "docs/how-to/restricted-data.md",
    "docs/how-to/resume.md",
    "docs/how-to/several-devices.md",
    "docs/how-to/plan.md",
    "docs/how-to/stored-logits.md",
    "docs/how-to/sweep.md",
    "docs/how-to/teacher-from-torchvision.md",
    "docs/results/README.md",
]
ELSEWHERE = ("make ", "pip ", "git ")  # what makes the environment that this test runs in
BLOCK = re.compile(r"((?:^<!-- .*? -->\n)*)^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    file: str | None
    code: int

    @property
    def commands(self) -> Iterator[str]:
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith(("#", *ELSEWHERE)):
                yield line


def blocks(page: str) -> list[Block]:
    found = []
    for notes, language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        file = re.search(r"<!-- file: (\S+) -->", notes)
        code = re.search(r"<!-- exit (\d+) -->", notes)
        found.append(Block(language, text, file[1] if file else None, int(code[1]) if code else 0))
    return found


def kd(line: str) -> int:
    argv = shlex.split(line, comments=True)[1:]
    argv = [
        name
        for word in argv
        for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    if argv[0] in {"train-teacher", "distill"} and "--epochs" not in argv and "--help" not in argv:
        argv += ["--epochs", "1"]
    return run(argv, Environment.of_process())


def shell(line: str) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PATH": path}, check=False
    ).returncode


@pytest.fixture(scope="session")
def quickstart_teacher(tmp_path_factory) -> Path:
    """The run of the quickstart's teacher that recipes name, trained once for all pages."""
    out = tmp_path_factory.mktemp("teacher")
    result = train_teacher("quickstart-teacher", out=out)
    assert result is not None
    return Path(result.run)


@pytest.mark.parametrize("page", PAGES)
def test_page_can_be_followed(page, tmp_path, monkeypatch, quickstart_teacher):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KD_DATA_DIR")
    shutil.copytree(quickstart_teacher, tmp_path / "runs" / quickstart_teacher.name)
    for block in blocks(page):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            for command in block.commands:
                assert (kd if command.startswith("kd ") else shell)(command) == block.code, command


def test_every_page_with_commands_is_followed():
    pages = {
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    }
    generated = {"docs/reference/cli.md"}  # its examples are run by the tests of the command line
    assert {
        page for page in pages - generated if any(block.language == "sh" for block in blocks(page))
    } <= set(PAGES)
