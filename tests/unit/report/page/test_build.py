"""The report says what the run measured, in full, fetches nothing, and is the same each time."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from kdcli.jobs.train.mistakes import small
from kdcli.report.findings.baseline import baseline_command, find_baseline
from kdcli.report.page.build import build
from kdcli.runs.read import Run
from tests.unit.report import fake_run

VERDICT = "The student is 70× smaller and 1.7 points below its teacher."
ORDER = [
    "Accuracy",
    "What the student gets wrong",
    "Gap to the teacher",
    "What the teacher has to teach",
    "Calibration",
    "Confusion",
    "Training",
    "Along training",
    "Recipe",
    "Environment",
    "How to reproduce",
]
MEGABYTE = 2**20


def said(path) -> str:
    return path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = fake_run.write_student(tmp_path_factory.mktemp("runs") / "skd-cnn-small-digits-1")
    assert build(folder) == folder / "report.html"
    return folder


def test_the_page_begins_with_the_verdict_and_the_gates(built):
    text = said(built / "report.html")
    assert f"<h1>{VERDICT}</h1>" in text
    assert "✓ passed</b> accuracy 97.2 %, at least 96.0 % asked for" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == ORDER


@pytest.mark.parametrize("file", ["report.html", "report.md", "MODEL_CARD.md"])
def test_numbers_come_with_what_they_rest_on(built, file):
    text = said(built / file)
    for expected in (
        "97.2 %",
        "98.9 %",
        "95.5–98.9",
        "−1.7 pt",
        "0.097",
        "0.021",
        "+0.081",
        "20.5 k",
        "1.43 M",
        "70× smaller",
    ):
        assert expected in text
    assert "test split of digits, n = 360 images, last epoch of 30, seed 0" in text
    assert "kd distill runs/skd-cnn-small-digits-1/recipe.toml" in text


def test_markdown_has_the_same_parts_and_links_figures_that_exist(built):
    text = said(built / "report.md")
    assert f"**{VERDICT}**" in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ORDER
    links = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert {built / link for link in links} == set((built / "plots").iterdir())
    assert fake_run.RECIPE.strip() in text


class Resources(HTMLParser):
    """Everything that a page would fetch or run, and its ids."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "data"} and not value.startswith(
                ("#", "data:image/")
            ):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)


def test_the_page_stands_alone(built):
    text = (built / "report.html").read_text(encoding="utf-8")
    page = Resources()
    page.feed(text)
    assert not page.fetched
    assert not page.scripts
    assert len(page.ids) == len(set(page.ids))
    # a namespace, not an address
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "url(http" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert len(text.encode()) < MEGABYTE / 2


def test_references_inside_figures_lead_somewhere(built):
    for path in (built / "plots").iterdir():
        text = path.read_text(encoding="utf-8")
        ET.fromstring(text)  # well formed
        wanted = set(re.findall(r'href="#([^"]+)"', text)) | set(
            re.findall(r"url\(#([^)]+)\)", text)
        )
        assert wanted <= set(re.findall(r'id="([^"]+)"', text))


def test_figures_take_the_colour_of_the_page(built):
    for path in (built / "plots").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "currentColor" in text
        assert "<text" in text
        assert (
            not re.search(
                r"#000000|#ffffff|#010203", text.replace('fill="#ffffff"', ""), re.IGNORECASE
            )
            or path.stem == "confusion"
        )


def test_two_builds_give_the_same_bytes(built):
    before = {path: path.read_bytes() for path in built.rglob("*") if path.is_file()}
    build(built)
    assert {path: path.read_bytes() for path in built.rglob("*") if path.is_file()} == before


def test_a_network_trained_on_labels_has_no_gap_section(teacher_folder):
    build(teacher_folder)
    text = said(teacher_folder / "report.html")
    assert "cnn-large with 1.43 M parameters is right on 97.2 % of 360 digits test images." in text
    assert "Gap to the teacher" not in text
    assert "nothing is held out." in text
    assert "kd train-teacher runs/cnn-large-digits-1/recipe.toml" in text


def test_without_analysis_the_gap_comes_from_the_summary(tmp_path):
    folder = fake_run.write_run(
        tmp_path / "run", result=fake_run.summary(), lines=fake_run.epoch_lines(val=False)
    )
    text = said(build(folder, html=False))
    assert "| 4 | raw | +0.310 | +0.020 |" in text
    assert "## Calibration" not in text


def test_without_html_there_are_no_figures_and_no_links_to_them(run_folder):
    assert build(run_folder, html=False) == run_folder / "report.md"
    assert not (run_folder / "report.html").exists()
    assert not (run_folder / "plots").exists()
    assert "plots/" not in said(run_folder / "report.md")


def test_an_unfinished_run_says_so_and_gets_no_card(tmp_path):
    folder = fake_run.write_run(tmp_path / "run", lines=fake_run.epoch_lines(30)[:13])
    text = said(build(folder))
    assert "This run is not finished: epoch 12 of 30, stage distill." in text
    assert "The loss fell from" in text
    assert not (folder / "MODEL_CARD.md").exists()


def test_a_run_without_a_single_epoch_can_be_shown(tmp_path):
    assert "no epoch is complete yet" in said(build(fake_run.write_run(tmp_path / "run")))


def test_a_missed_gate_is_said_in_words(tmp_path):
    gates = (fake_run.GateResult("max_entropy_gap", 0.05, 0.081, passed=False),)
    folder = fake_run.write_run(tmp_path / "run", result=fake_run.summary(gates=gates))
    assert "✗ missed: entropy gap 0.081, at most 0.050 asked for" in said(build(folder, html=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"parameters": 1_430_000, "test": fake_run.measures(0.9889)},
            "is as large as its teacher and as accurate as its teacher.",
        ),
        (
            {"parameters": 2_860_000, "test": fake_run.measures(0.995)},
            "is 2.0× larger and 0.6 points above its teacher.",
        ),
        (
            {"gap": fake_run.GapAt(1.0, -0.2, 0.0), "gaps": ()},
            "At τ = 1 it is more sure than its teacher: entropy gap −0.200 nats.",
        ),
        (
            {"gap": fake_run.GapAt(1.0, 0.002, 0.0), "gaps": ()},
            "it is as sure as its teacher, as far as these samples can tell: entropy gap +0.002",
        ),
        (
            {},  # of all temperatures, the one of the method
            "At τ = 4, at which it was distilled, it is less sure than its teacher: entropy gap +0.310",
        ),
        (
            {
                "cost": fake_run.cost(0.0002),
                "teachers": (fake_run.teacher(cost=fake_run.cost(0.0024)),),
            },
            "The student is 70× smaller, 12× faster on one image, and 1.7 points below its teacher.",
        ),
        (
            {
                "cost": fake_run.cost(0.003),
                "teachers": (fake_run.teacher(cost=fake_run.cost(0.002)),),
            },
            "The student is 70× smaller, 1.5× slower on one image, and 1.7 points below its teacher.",
        ),
        (
            {"teachers": (fake_run.teacher(test=None),)},
            "cnn-small with 20.5 k parameters is right on 97.2 % of 360 digits test images.",
        ),
    ],
)
def test_the_verdict_follows_the_numbers(tmp_path, change, words):
    folder = fake_run.write_run(tmp_path / "run", result=fake_run.summary(**change))
    assert words in said(build(folder, html=False))


def test_a_gap_whose_interval_holds_zero_is_not_called_a_difference(run_folder):
    text = (run_folder / "analysis.json").read_text()
    shifted = json.loads(text)
    at_four = shifted["gap"]["pairs"][0]["at"][2]
    assert at_four["temperature"] == 4
    at_four["entropy"] |= {"low": -0.01}
    (run_folder / "analysis.json").write_text(json.dumps(shifted))
    assert "as sure as its teacher, as far as these samples can tell" in said(
        build(run_folder, html=False)
    )


def test_names_cannot_break_the_page(tmp_path):
    evil = '<script>alert("x")</script>|*a*'
    result = fake_run.summary(name=evil, network=evil, data=evil, warnings=(evil,))
    folder = fake_run.write_run(
        tmp_path / "run", result=result, recipe=fake_run.RECIPE + f"# {evil}\n"
    )
    page = Resources()
    page.feed(build(folder).read_text(encoding="utf-8"))
    assert not page.scripts
    for line in said(folder / "report.md").splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in {3, 5}


def test_as_many_pictures_as_there_may_be_stay_small(tmp_path):
    """Noise, which takes the most room, 64 of each kind, as large as they may be."""
    folder = fake_run.write_run(tmp_path / "run", result=fake_run.summary())
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 300), dtype=np.uint8)
    image, width, height = small(torch.from_numpy(noise))
    kinds = fake_run.mistakes(64, image, width, height)
    (folder / "mistakes.json").write_text(json.dumps(asdict(kinds)))
    page = build(folder)
    assert page.read_text().count("<img ") == 3 * 64
    assert page.stat().st_size < 3 * MEGABYTE


def test_mistakes_are_shown_with_both_answers_by_class(built):
    text = said(built / "report.html")
    assert "What the student gets wrong" in text
    assert '<p class="sub">3 of 360 test images; 2 are shown.</p>' in text
    assert "<h4>class two <small>1 of 2</small></h4>" in text
    assert "<i>student</i> five (93 %)" in text
    assert "<i>teacher</i> two (&gt;99 %)" in text
    assert "test/two/1.png" in text
    markdown = said(built / "report.md")
    assert "| test/two/1.png | two | five (93 %) | two (\\>99 %) |" in markdown
    assert "data:image" not in markdown


def test_many_classes_stay_small(tmp_path):
    folder = fake_run.write_run(
        tmp_path / "run",
        result=fake_run.summary(),
        details=fake_run.analysis(100, temperatures=(1.0,)),
    )
    assert build(folder).stat().st_size < MEGABYTE / 2
    assert "data:image/png;base64" in (folder / "plots" / "confusion.svg").read_text()


def test_stages_are_drawn_apart(tmp_path):
    lines = [
        *fake_run.epoch_lines(5, stage="paraphraser", terms=(("rec", 1.0),)),
        *fake_run.epoch_lines(6),
    ]
    folder = fake_run.write_run(tmp_path / "run", result=fake_run.summary(), lines=lines)
    assert "11 epochs in" in said(build(folder))
    assert {"paraphraser", "distill", "rec", "skd"} <= set(
        re.findall(r"<text[^>]*>([^<]+)<", (folder / "plots" / "losses.svg").read_text())
    )


# ---- the label-only baseline ---------------------------------------------------------------------


def test_a_neighbour_trained_on_labels_alone_is_the_baseline(run_folder):
    fake_run.write_baseline(run_folder.parent / "none-cnn-small-digits-1")
    text = said(build(run_folder, html=False))
    finding = (
        "Whether distillation helped here is within noise: the student is 1.9 points above the "
        "same network trained on labels alone"
    )
    assert f"{finding} (95 % interval −0.8 to +4.7 points, n = 360, one seed)." in text
    assert f"**{VERDICT}**" in text, "what was gained comes first"
    assert "--method none" not in text
    assert "|   | teacher cnn-large | labels only | student cnn-small | student − teacher |" in text


@pytest.mark.parametrize(
    ("key", "other"),
    [("epochs = 30", "epochs = 60"), ("seed = 0", "seed = 1"), ('"cnn-small"', '"cnn-large"')],
)
def test_a_run_trained_otherwise_is_no_baseline(run_folder, key, other):
    folder = fake_run.write_baseline(run_folder.parent / "none-cnn-small-digits-1")
    assert find_baseline(Run.load(run_folder)) is not None
    (folder / "recipe.toml").write_text(fake_run.BASELINE_RECIPE.replace(key, other))
    assert find_baseline(Run.load(run_folder)) is None


def test_a_damaged_neighbour_does_not_stop_a_report(run_folder):
    folder = fake_run.write_baseline(run_folder.parent / "none-cnn-small-digits-1")
    (folder / "summary.json").write_text("{")
    assert find_baseline(Run.load(run_folder)) is None


def test_the_page_prints_the_command_that_makes_the_baseline(built):
    command = "kd distill runs/skd-cnn-small-digits-1/recipe.toml --method none -s 'teacher=[]'"
    assert f"```sh\n{command}\n```" in said(built / "report.md")
    escaped = command.replace("'", "&#39;")
    assert f"<code>{escaped}</code>" in said(built / "report.html")


@pytest.mark.parametrize(
    ("old", "new", "end"),
    [
        ("seed = 0", 'seed = 0\nname = "mine"', " --name mine-labels"),
        (
            '"digits"  #',
            '"digits"\nper_class = 50\nselect = "entropy"  #',
            " -s report.reference=runs/cnn-large-digits-1/model.safetensors",
        ),
        ('"cnn-small"', '"nets.py:tiny"', " --trust"),
    ],
)
def test_the_command_goes_with_the_recipe(run_folder, old, new, end):
    recipe = fake_run.RECIPE.replace(old, new)
    assert recipe != fake_run.RECIPE
    (run_folder / "recipe.toml").write_text(recipe)
    assert baseline_command(Run.load(run_folder)).endswith(f"'teacher=[]'{end}")


@pytest.mark.parametrize(
    ("old", "new"), [('"skd"', '"none"'), ("epochs = 30", 'epochs = 30\ncontinues = "runs/a"')]
)
def test_some_runs_have_no_baseline(run_folder, old, new):
    (run_folder / "recipe.toml").write_text(fake_run.RECIPE.replace(old, new))
    assert baseline_command(Run.load(run_folder)) == ""


# ---- the model card ------------------------------------------------------------------------------


def test_the_card_has_front_matter_and_leaves_visible_blanks(built):
    text = said(built / "MODEL_CARD.md")
    _, front, body = text.split("---\n", 2)
    lines = dict(line.split(": ", 1) for line in front.strip().splitlines())
    assert lines["license"].strip().startswith("#")
    assert lines["tags"] == '["knowledge-distillation", "skd"]'
    assert lines["datasets"] == '["digits"]'
    assert lines["metrics"] == '["accuracy"]'
    assert (
        '"value": 0.9722, "name": "accuracy (test, n = 360, last epoch, seed 0)"'
        in lines["model-index"]
    )
    assert body.count("_To be filled in by the person who publishes this model._") == 2
    assert "sha256 abababab" in body


def test_the_report_never_imports_torch(tmp_path):
    folder = fake_run.write_run(tmp_path / "run", result=fake_run.summary())
    code = (
        f"import sys; from kdcli.report.page.build import build; build({str(folder)!r}); import "
        "kdcli.report.tables.compare, kdcli.report.tables.formats"
    )
    check = (
        f"{code}; sys.exit(any(name in sys.modules for name in ('torch', 'typer', "
        "'matplotlib.pyplot')))"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
