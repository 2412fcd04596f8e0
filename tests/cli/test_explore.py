"""Listings, recipes, check, schema, and what the shell completes."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from dataclasses import replace

import pytest
from PIL import Image

from kdcli import catalog
from kdcli.cli import completion, text
from kdcli.errors import Terminated
from kdcli.recipe import shipped
from kdcli.recipe.sweep.cells import load_sweep


def test_relatives_of_a_method_are_listed_with_reasons(kd):
    answer = kd("methods", "--like", "kd_pt", "--json", "-q")
    found = {item["name"]: item["reasons"] for item in json.loads(answer.out)["data"]}
    assert "kd_pt" not in found
    assert found["kd"] == ["named on its page", "also logit", "also reads logits"]
    assert next(iter(found)) == "kd"  # the most reasons first
    out = kd("methods", "--like", "crd").out  # alone in its family
    for name in ("cc", "rkd", "pkt", "srd"):
        assert re.search(rf"^ +{name} +also reads pooled vector", out, re.MULTILINE)
    assert kd("methods", "skd", "--like", "kd").code == 2
    assert "is not a method" in kd("methods", "--like", "cdr").err


def test_methods_are_listed_by_family_with_their_number(kd):
    lines = kd("methods").out.splitlines()
    assert len(lines) == len(catalog.entries("method")) + 1
    entries = catalog.entries("method").values()
    first = min(entry.name for entry in entries if entry.family == "logit")
    assert [line.split()[:2] for line in lines[:3]] == [
        ["baseline", "label_smoothing"],
        ["none", "Cross-entropy"],
        ["logit", first],
    ]
    assert lines[-1].startswith(f"  {len(catalog.entries('method'))} methods")


@pytest.mark.parametrize("name", catalog.names("method"))
def test_a_method_in_full_shows_every_option_with_its_default(kd, name):
    out = kd("methods", name).out
    options = out.partition("\nOptions\n")[2].splitlines()
    for key, field in catalog.options_class(catalog.entry("method", name)).model_fields.items():
        (line,) = [line for line in options if line.startswith(f"  {key} ")]
        assert field.description in line
    assert "Differs from the paper:" in out


def test_what_a_method_needs(kd):
    assert kd("methods", "skd").out.startswith(
        "skd · logit · needs one or more teachers · reads teacher logits · trains student\n"
    )
    assert "needs no teacher" in kd("methods", "none").out


def test_a_piped_list_is_never_cut(kd):
    summaries = [entry.summary for entry in catalog.entries("model").values()]
    out = kd("models").out
    assert all(summary in out for summary in summaries)


def test_models_by_wildcard_have_sizes(kd):
    titles, *lines, last = kd("models", "cnn-*", "-d", "digits").out.splitlines()
    assert titles.split() == ["parameters", "multiply-adds", "input", "taps"]
    assert len(lines) == 3
    assert "20.5 k" in lines[2]
    assert "parameters for 10 classes, 1×8×8" in last


def test_a_model_in_full_shows_its_taps(kd):
    out = kd("models", "cnn-small", "-d", "digits").out
    assert "20.5 k parameters" in out
    assert "pooled" in out


def test_datasets_say_whether_they_are_there(kd, tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    present = {
        item["name"]: item["present"]
        for item in kd("datasets", "--json", "--data-dir", str(tmp_path)).json["data"]
    }
    assert present["digits"] is True
    assert present["cifar100"] is True
    assert present["mnist"] is False
    assert present["npz"] is None
    assert (
        kd("datasets", "--json", environ={"KD_DATA_DIR": str(tmp_path)}).json["data"]
        == kd("datasets", "--json", "--data-dir", str(tmp_path)).json["data"]
    )


def test_download_is_the_only_way_to_the_network(kd, pretend):
    calls = pretend("download", None)
    assert kd("datasets", "mnist").code == 0
    assert calls == []
    assert kd("datasets", "mnist", "--download", "--data-dir", "here").code == 0
    assert calls[0]["arguments"] == ("mnist", "here")


# ---- recipes -------------------------------------------------------------------------------------


def test_shipped_recipes_can_be_listed_and_shown(kd):
    names = [item["name"] for item in kd("recipes", "ls", "--json").json["data"]]
    assert names[:2] == ["quickstart-teacher", "quickstart"]
    for name in (names[0], names[-1]):
        tomllib.loads(kd("recipes", "show", name).out)


def test_a_copy_brings_what_it_needs_and_overwrites_nothing(kd, tmp_path):
    answer = kd("recipes", "cp", "quickstart", "mine.toml")
    assert answer.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "quickstart-teacher.toml"}
    assert "kd distill mine.toml" in answer.err
    assert kd("check", "mine.toml").code == 0
    assert kd("recipes", "cp", "quickstart", "mine.toml").code == 2


def test_a_copy_into_a_folder_keeps_its_name(kd, tmp_path):
    (tmp_path / "sub").mkdir()
    kd("recipes", "cp", "quickstart-teacher", "sub")
    assert (tmp_path / "sub" / "quickstart-teacher.toml").is_file()


def test_a_copied_sweep_finds_all_that_it_names(kd, tmp_path):
    sweeps = [item for item in shipped.ls() if item.kind == "sweep"]
    for item in sweeps:
        folder = tmp_path / item.name
        folder.mkdir(parents=True)
        kd("recipes", "cp", item.name, str(folder))
        first = load_sweep(folder / item.path.name).cells[0]
        # pictures at a path of the user's are needed for ImageNet
        sets = ["data.path=pictures"] if "imagenet" in str(first.base) else []
        assert replace(first, overrides=(sets, ())).resolved


# ---- check and schema ----------------------------------------------------------------------------


def test_a_sweep_that_only_extends_another_is_checked_as_one(kd, tmp_path):
    methods = shipped.find("digits/methods")
    (tmp_path / "shorter.toml").write_text(f'extends = "{methods}"\n[set]\n"train.epochs" = 1\n')
    answer = kd("check", "shorter.toml", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["data"][0]["kind"] == "sweep"


def test_check_prints_a_recipe_that_can_be_run_again_with_origins(kd, tmp_path):
    answer = kd("check", "quickstart", "-s", "train.epochs=3")
    line = next(line for line in answer.out.splitlines() if line.startswith("epochs"))
    assert line.split("#")[1].strip() == "--set"
    (tmp_path / "again.toml").write_text(answer.out)
    again = kd("check", "again.toml", "--json").json["data"][0]["values"]
    assert (
        again
        == kd("check", "quickstart", "-s", "train.epochs=3", "--json").json["data"][0]["values"]
    )
    assert again["train.epochs"] == 3


def test_check_goes_through_all_files_and_reports_all_problems(kd, tmp_path):
    (tmp_path / "bad.toml").write_text('extends = "quickstart"\n[train]\nepochs = 0\n')
    (tmp_path / "worse.toml").write_text('extends = "quickstart"\n[nonsense]\n')
    answer = kd("check", "bad.toml", "quickstart", "worse.toml", "--json")
    assert answer.code == 2
    assert {error["where"]["file"] for error in answer.json["errors"]} == {"bad.toml", "worse.toml"}
    assert [item["recipe"] for item in answer.json["data"]] == ["quickstart"]


def test_check_lists_the_cells_of_a_sweep(kd, tmp_path):
    (tmp_path / "s.toml").write_text(
        'base = "quickstart"\n[axes]\nseed = [0, 1, 2]\n"method.name" = ["kd", "skd"]\n'
    )
    answer = kd("check", "s.toml")
    assert len(answer.out.splitlines()) == 7
    assert "6 runs" in answer.err


@pytest.fixture
def pets(tmp_path):
    """A folder of pictures in which nothing is wrong."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(2):
                path = tmp_path / "pets" / part / name / f"{number}.png"
                Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(path)
    return tmp_path / "pets"


def test_check_opens_every_file_of_a_folder(kd, pets):
    answer = kd("check", "--data", "pets", "-s", "data.size=32")
    assert (answer.code, answer.out) == (0, "image-folder pets · 2 classes · 4 train · 4 test\n")
    for culprit in ("train/cat/1.png", "train/dog/0.png", "test/dog/1.png"):
        (pets / culprit).write_bytes(b"no picture")
    (pets / "train" / "fish").mkdir()
    answer = kd("check", "--data", "pets", "-s", "data.size=32")
    assert answer.code == 2
    assert answer.out.count("✗") == 4
    assert answer.out.count("put a good picture in its place") == 1
    errors = kd("check", "--data", "pets", "-s", "data.size=32", "--json").json["errors"]
    assert [error["where"] and error["where"]["file"] for error in errors] == [
        None,
        "pets/train/cat/1.png",
        "pets/train/dog/0.png",
        "pets/test/dog/1.png",
    ]


def test_a_check_that_is_stopped_says_no_more(kd, pets, monkeypatch):
    def stopped(_data):
        raise Terminated("stopped by the system (SIGTERM)")

    monkeypatch.setattr("kdcli.jobs.check_data", stopped)
    answer = kd("check", "--data", "pets", "pets")
    assert (answer.code, answer.err.count("stopped by the system")) == (143, 1)


def test_check_opens_the_data_of_recipes_and_of_overrides(kd, pets, tmp_path):
    (tmp_path / "r.toml").write_text(
        'extends = "quickstart-teacher"\n[data]\nname = "image-folder"\npath = "pets"\nsize = 32\n'
    )
    (tmp_path / "s.toml").write_text(
        'base = "r.toml"\n[axes]\nseed = [0, 1]\n"data.size" = [16, 32]\n'
    )
    keys = ("-s", "data.name=image-folder", "-s", "data.path=pets", "-s", "data.size=32")
    for argv, count in ((("r.toml",), 1), (("s.toml",), 2), (keys, 1)):
        answer = kd("check", "--data", *argv, "--json")
        assert answer.code == 0
        (checked,) = answer.json["data"]
        assert [report["test"] for report in checked["data"]] == [4] * count
    assert kd("check", "--data").code == 2
    for argv in (("check", "pets"), ("train-teacher", "-d", "pets")):
        answer = kd(*argv)
        assert answer.code == 2
        assert "kd check --data pets" in answer.err
    assert kd("check").code == 2


def test_schema_is_json(kd):
    assert json.loads(kd("schema").out)["title"] == "kd recipe"


# ---- table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["md", "csv", "latex", "html"])
def test_a_table_without_runs_has_dots_and_the_paper(kd, form):
    out = kd("table", "tables/energy-table7", "--format", form).out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert rows
        assert all(row["mean"] == "" for row in rows)
    else:
        assert "·" in out or r"\cdot" in out


# ---- completion ----------------------------------------------------------------------------------


def names(found):
    return [name for name, _ in found]


def test_completion_knows_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names(completion.methods("sk")) == ["skd"]
    assert "cnn-small" in names(completion.models("cnn-"))
    assert names(completion.datasets("dig")) == ["digits"]
    (tmp_path / "quick.toml").write_text("")
    assert {"quickstart", "quickstart-teacher", "quick.toml"} == set(
        names(completion.recipes("quick"))
    )
    assert "quickstart-teacher" in names(completion.shipped("quick"))
    assert all(name.startswith("tables/") for name in names(completion.sweeps("tab")))


def test_completion_finds_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.toml").write_text("")
    assert names(completion.runs("")) == ["runs/a", "runs/b"]
    assert names(completion.runs("runs/b")) == ["runs/b"]
    monkeypatch.setenv("KD_RUNS_DIR", "elsewhere")
    assert completion.runs("") == []


def test_the_shell_gets_completions(kd, monkeypatch, capsys):
    monkeypatch.setenv("_KD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "kd distill --method sk")
    monkeypatch.setenv("COMP_CWORD", "3")
    answer = kd()
    assert (answer.code, answer.err) == (0, "")
    assert "skd" in capsys.readouterr().out


# ---- text ----------------------------------------------------------------------------------------


def test_columns_give_way_at_the_first_column():
    rows = [("a-very-long-name-of-a-run-1", "1.0"), ("short", "22.0")]
    assert text.columns(rows, "<>") == [
        "  a-very-long-name-of-a-run-1   1.0",
        "  short                        22.0",
    ]
    assert text.columns(rows, "<>", room=24) == [
        "  …name-of-a-run-1   1.0",
        "  short             22.0",
    ]


def test_sparkline_spans_from_least_to_greatest():
    assert text.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == text.BARS
    assert text.sparkline([1.0, 1.0]) == text.BARS[0] * 2
    assert text.sparkline([]) == ""
