"""Every code block of every page works: each page is followed from top to bottom in a folder of its
own.

`sh` and `bash` blocks are executed; a `python` block runs in one namespace with those before it,
and prints what the `text` block behind it says; a `toml` block is a recipe, or a part of one, that
is valid. What stands above a block says more:

    <!-- file: NAME -->      it is written to that file
    <!-- exit N -->          its commands end with that code
    <!-- before: NAME -->    what has to be there first, made by PREPARATIONS
    <!-- needs: NAMES -->   packages of an extra; the rest of the page is skipped without them
    <!-- skip: REASON -->    it cannot be run here, and is shown as a skipped test

Training is cut to one epoch, or to three where a page says so, in this process, so that torch
is imported once. The first run of each command in the README draws its own page; the others leave
it out, because its plots take longer than the training.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.errors import Interrupted
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.events import StepDone
from kdcli.recipe.resolve import resolve
from tools import docs

ROOT = Path(__file__).parents[2]
GENERATED = {f"docs/reference/{name}" for name in docs.PAGES}  # of what other tests run
BLOCK = re.compile(r"((?:^<!-- .*? -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = ("--set", "report.html=false", "--set", "report.latency=false")
OUTPUT = {"", "text"}
RUN = {"sh", "bash", "python", "toml"}
PIPED = re.compile(r" (>|\||&&) ")
COMMAND = re.compile(r"(kd (?!\d)|make |pip |git |python3? |torchrun )")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    notes: Mapping[str, str]
    output: str | None  # of the text block that follows at once

    @property
    def commands(self) -> Iterator[str]:
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield line


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    matches = list(BLOCK.finditer(text))
    found = []
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        notes = dict(re.findall(r"<!-- (\w+): ?(.*?) -->", re.sub(r"exit ", "exit: ", match[1])))
        near = following is not None and text[match.end() : following.start()].strip() == ""
        output = following[3] if near and following[2] == "text" else None
        found.append(Block(match[2], match[3], notes, output))
    return found


PAGES = {
    path: found
    for path in sorted(
        {
            file.relative_to(ROOT).as_posix()
            for file in [
                ROOT / "README.md",
                ROOT / "CONTRIBUTING.md",
                ROOT / "benchmarks" / "README.md",
                *(ROOT / "docs").rglob("*.md"),
            ]
        }
        - GENERATED
    )
    if (found := blocks(path))
}
FOLLOWED = [
    page
    for page, found in PAGES.items()
    if any(block.language in RUN and "skip" not in block.notes for block in found)
]
# these train, or start processes, for ten seconds or more: `make test-all` follows them, and `make
# test` reads them
LONG = {
    f"docs/how-to/{name}.md"
    for name in (
        *(
            "ci",
            "explain-a-gap",
            "find-teacher",
            "import-weights",
            "networks-of-others",
            "own-data",
            "plan",
        ),
        *(
            "resume",
            "search",
            "several-devices",
            "sweep",
            "teacher-from-torchvision",
            "texts-of-transformers",
            "use-a-student",
        ),
    )
}
SKIPPED = [
    pytest.param(block.notes["skip"], id=f"{page}: {block.text.splitlines()[0]}")
    for page, found in PAGES.items()
    for block in found
    if "skip" in block.notes
]


# ---- what a page takes for granted ---------------------------------------------------------------


def pictures(made_weights: Callable[[str], object]) -> None:
    """Small folders of pictures, and weights for them where torchvision looks for them."""
    for split, count in (("train", 2), ("val", 2)):
        for number, name in enumerate(("ant", "bee", "cat")):
            folder = Path("my-pictures") / split / name
            folder.mkdir(parents=True)
            for picture in range(count):
                pixels = np.full((32, 32, 3), 60 * number + picture, np.uint8)
                Image.fromarray(pixels).save(folder / f"{picture}.png")
    for name in ("resnet34", "shufflenet_v2_x0_5"):
        made_weights(name)


def interrupted(_made_weights: Callable[[str], object]) -> None:
    """A run that was stopped in its first epoch."""

    def stop(event: object) -> None:
        if isinstance(event, StepDone):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        distill("quickstart", overrides={"train.epochs": 1}, listeners=[stop])


PREPARATIONS = {"interrupted": interrupted, "pictures": pictures}


@pytest.fixture(scope="session")
def quickstart_teacher(tmp_path_factory) -> Path:
    """The run of the quickstart's teacher that recipes name, trained once for all pages."""
    out = tmp_path_factory.mktemp("teacher")
    shorter = {"report.html": False, "report.latency": False}
    result = train_teacher("quickstart-teacher", out=out, overrides=shorter)
    assert result is not None
    return Path(result.run)


# ---- running a block -----------------------------------------------------------------------------


def kd(line: str, *more: str) -> int:
    argv = shlex.split(line, comments=True)[1:]
    argv = [
        name
        for word in argv
        for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    if argv[0] in {"train-teacher", "distill"} and "--help" not in argv:
        if "--epochs" not in argv:
            argv += ["--epochs", "1"]
        place = argv.index("--epochs") + 1
        argv[place] = str(min(int(argv[place]), 3))
    if argv[0] in {"train-teacher", "distill"} and "--help" not in argv:
        argv += more
    return run(argv, Environment.of_process())


def shell(line: str) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PATH": path}, check=False
    ).returncode


def script(name: str) -> int:
    """Runs a file of Python here, and without the pages of its runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcli.report.page.build.figures_of_run", lambda _run: ())
        runpy.run_path(name, run_name="__main__")
    return 0


def python(block: Block, names: dict[str, object]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block.text, "<block>", "exec"), names)
    if block.output is not None:
        assert said.getvalue() == block.output


def recipe(block: Block) -> None:
    """Checks a recipe; a part of one is laid over the quickstart."""
    whole = "[student]" in block.text or "[model]" in block.text
    kind = "train-teacher" if "[model]" in block.text else "distill"
    start = "" if whole else 'extends = "quickstart.toml"\n'
    Path("part.toml").write_text(start + block.text, encoding="utf-8")
    resolve(kind, file="part.toml")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page in LONG else page for page in FOLLOWED],
)
def test_page_can_be_followed(page, tmp_path, monkeypatch, quickstart_teacher, made_weights):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KD_DATA_DIR")
    shutil.copytree(quickstart_teacher, tmp_path / "runs" / quickstart_teacher.name)
    names: dict[str, object] = {}
    drawn = set() if page == "README.md" else {"train-teacher", "distill"}
    for block in PAGES[page]:
        for package in block.notes.get("needs", "").split():
            pytest.importorskip(package, reason=f"the rest of the page needs {package}")
        if "before" in block.notes:
            PREPARATIONS[block.notes["before"]](made_weights)
        if "skip" in block.notes or block.language in OUTPUT:
            continue
        if "file" in block.notes:
            (tmp_path / block.notes["file"]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            python(block, names)
        elif block.language == "toml":
            recipe(block)
        else:
            for command in block.commands:
                program, name = [*command.split(), ""][:2]
                if program == "kd" and not PIPED.search(command):
                    code = kd(command, *(SHORTER if name in drawn else ()))
                    drawn.add(name)
                elif program == "python3":
                    code = script(name)
                else:
                    code = shell(command)
                assert code == int(block.notes.get("exit", 0)), command


@pytest.mark.parametrize("reason", SKIPPED)
def test_blocks_that_cannot_run_here(reason):
    pytest.skip(reason)


def test_every_block_is_run_or_says_why_not():
    for page, found in PAGES.items():
        for block in found:
            told = "skip" in block.notes or "file" in block.notes
            assert told or block.language in RUN | OUTPUT, (page, block.text)
            output = block.language in OUTPUT and "skip" not in block.notes
            assert not (output and COMMAND.match(block.text)), (page, block.text)
            assert block.notes.keys() <= {"file", "exit", "before", "needs", "skip"}
            assert not re.fullmatch(r"\s*", block.notes.get("skip", "a reason"))
