"""Names that command a terminal, or turn the order of text, reach no screen and no page, and nothing
that a machine reads is lost.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.engine.checkpoint import load_weights, save_model
from kdcli.jobs import build_network
from kdcli.recipe.resolve import resolve
from kdcli.report.markdown import escape
from kdcli.results.weights_header import read_header
from tests.cli.conftest import Answer, Terminal

ESC = "\x1b[31mred\x1b[0m"
CSI = "\x9b2J"
BIDI = "gpj.\u202eexe"
ISOLATE = "\u2066left"
BREAK = "two\n| lines |"
NAMES = (
    ESC,
    CSI,
    BIDI,
    ISOLATE,
    BREAK,
    "del\x7f",
    "\x07bell",
    "line\u2028end",
    "back\rslash",
)
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what rich draws with


def call(*argv: str, live: bool = False, environ: dict[str, str] | None = None) -> Answer:
    out, err = (Terminal(), Terminal()) if live else (io.StringIO(), io.StringIO())
    code = run(argv, Environment(out, err, environ or {}))
    return Answer(code, out.getvalue(), err.getvalue())


def clean(text: str) -> bool:
    return UNSAFE.search(text) is None


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A student and its teacher on folders of images with such names, and its answers on the way."""
    folder = tmp_path_factory.mktemp("hostile")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in NAMES:
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(
                    folder / "data" / split / name / f"{number}\x1b[2J.png"
                )
    common = ("-s", "train.batch_size=8", "--epochs", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("ESC\x1b]0;t\x07.toml").write_text(
            'data = {name = "image-folder", path = "data", size = 8, resident = true}\n',
            encoding="utf-8",
        )
        answers = [
            call(
                "train-teacher",
                "ESC\x1b]0;t\x07.toml",
                "--model",
                "cnn-large",
                "--name",
                "t",
                "-s",
                "report.html=false",
                *common,
            ),
            call("distill", "-t", "runs/t", "-m", "kd", "--name", "s", *common, live=True),
        ]
        assert [answer.code for answer in answers] == [0, 0], [answer.err for answer in answers]
        yield folder, answers


def test_no_screen_and_no_page_of_a_run_commands_a_terminal(work):
    folder, (log, live) = work
    assert clean(log.out + log.err)
    assert clean(OURS.sub("", live.out + live.err).replace("\r", ""))
    assert ESC not in live.err
    texts = [
        path
        for path in (folder / "runs").rglob("*")
        if path.suffix in {".md", ".html", ".svg", ".toml", ".json", ".jsonl", ".txt"}
    ]
    assert {path.name for path in texts} >= {
        "report.md",
        "report.html",
        "MODEL_CARD.md",
        "recipe.toml",
        "summary.json",
        "log.txt",
        "metrics.jsonl",
    }
    assert any(path.suffix == ".svg" for path in texts)
    for path in texts:
        assert clean(path.read_text(encoding="utf-8")), path


def test_a_name_of_several_lines_breaks_no_table(work):
    folder, _ = work
    page = (folder / "runs" / "s" / "report.md").read_text(encoding="utf-8")
    assert r"two\\u000a\| lines \|" in page
    lines = page.splitlines()
    for above, rule in itertools.pairwise(lines):
        if re.fullmatch(r"\|( :?-+:? \|)+", rule):
            assert above.startswith("|")
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_what_machines_read_is_whole(work, monkeypatch):
    folder, _ = work
    monkeypatch.chdir(folder)
    answer = call("evaluate", "runs/s", "--per-class", "--json")
    assert clean(answer.out + answer.err)
    names = {name for item in answer.json["data"]["evaluations"] for name in item["per_class"]}
    assert names == set(NAMES)
    assert set(read_header("runs/s")[1].class_names) == set(NAMES)
    summary = json.loads((folder / "runs" / "s" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["per_class"]) == set(NAMES)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "runs/s", "runs/t", "--per-class"),
        ("analyze-gap", "--bootstrap", "10", "--csv", "gap.csv", "-v"),
        ("analyze-gap", "-t", "runs/hostile", "--bootstrap", "10"),
        ("compare", "runs/s", "runs/t"),
        ("models", "mlp", "-t", "runs/hostile"),
        ("check", "ESC\x1b]0;t\x07.toml", "-s", "model.name=cnn-small"),
        ("check", "quickstart", "-s", f"data.{json.dumps(ESC, ensure_ascii=False)}=3"),
        ("check", "quickstart", "-s", f"student.name={BREAK}{ESC}"),
        ("check", f"none{CSI}\n::error::injected.toml"),
        ("distill", "-s", f"name='{BIDI}'", "--dry-run"),
        ("train-teacher", "--name", f"a{ESC}\nb", "--dry-run"),
        ("train-teacher", "--name", f"{ESC}", "-s", f"seed={CSI}"),
        ("evaluate", f"runs/{ESC}\nno"),
        ("evaluate", "runs/hostile"),
        ("report", f"runs/{BIDI}"),
        ("evaluate", "runs/\udcff"),
        ("methods", f"{ESC}"),
        ("methods", f"./{ESC}.py"),
        ("datasets", f"{CSI}"),
        ("models", f"{ESC}\n*"),
        ("recipes", "show", f"{ESC}"),
        ("sweep", f"{ESC}.toml"),
        ("resume", f"{ESC}"),
        (f"{ESC}",),
        ("evaluate", f"--{ESC}"),
        ("--debug", "evaluate", f"runs/{ESC}"),
    ],
)
def test_no_screen_of_any_command_repeats_them(work, monkeypatch, words, live):
    folder, _ = work
    monkeypatch.chdir(folder)
    _hostile_header()
    answer = call(*words, live=live, environ={"GITHUB_ACTIONS": "true"})
    shown = OURS.sub("", answer.out + answer.err) if live else answer.out + answer.err
    assert clean(shown.replace("\r", "") if live else shown), ascii(shown)
    assert "\x1b[31mred" not in answer.err
    assert "\n::error::injected" not in shown
    if Path("gap.csv").exists():
        assert clean(Path("gap.csv").read_text(encoding="utf-8"))


def _hostile_header() -> None:
    if Path("runs/hostile").exists():
        return
    found, header = read_header("runs/t")
    network = build_network("cnn-large", num_classes=len(NAMES), input_shape=header.input_shape)
    load_weights(found, network)
    changes = {"method": ESC, "created_by": CSI, "data": {**header.data, "name": f"image{ESC}"}}
    save_model(Path("runs/hostile/model.safetensors"), network, replace(header, **changes))


def test_a_recipe_with_such_texts_is_written_and_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a\nseed = 9 #.toml").write_text('student.name = "cnn-small"\nmethod.name = "none"\n')
    from kdcli.recipe.writing import dump

    for name in (ESC, CSI, BIDI, BREAK):
        found = resolve(
            "distill",
            file="a\nseed = 9 #.toml",
            values={"name": "n", "data.root": name},
            environ={},
        )
        text = dump(found.recipe, found.origins)
        assert clean(text)
        assert tomllib.loads(text)["data"]["root"] == name
        assert tomllib.loads(text)["seed"] == 0


def test_markdown_keeps_a_name_on_its_line():
    assert escape(BREAK) == r"two\\u000a\| lines \|"
