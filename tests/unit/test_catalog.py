"""What exists is found by looking at files, and options are read without importing their module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdcli import catalog
from kdcli.errors import NotFound, UsageError
from kdcli.trust import trusting

METHOD = '''\
"""Mine: a title.

More words.
"""

from __future__ import annotations

import nowhere
from kdcli.core.method import MethodOptions
from pydantic import Field
from typing import Literal

FAMILY = "logit"


class Options(MethodOptions):
    """Options."""

    strength: float = Field(2.0, gt=0, description="How much.")
    mode: Literal["a", "b"] = Field("a", description="Which.")


class Helper:
    pass


class Mine(nowhere.Method):
    teachers = Arity(1, None)
    student_taps = ("stage1",)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHOD, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def (:", encoding="utf-8")
    (tmp_path / "nets.py").write_text(
        '"""Nets."""\n\n\ndef tiny(num_classes):\n    pass\n', encoding="utf-8"
    )


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_everything_listed_can_be_looked_up_and_its_options_read(kind):
    assert catalog.names(kind)
    for name, entry in catalog.entries(kind).items():
        assert catalog.entry(kind, name) == entry
        assert entry.summary
        described = catalog.options_class(entry).model_fields
        assert all(field.description for field in described.values()), name


def test_names_are_filtered_by_wildcards():
    assert "resnet20" in catalog.names("model", "resnet*")
    assert not any(name.startswith("cnn") for name in catalog.names("model", "resnet*"))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cifar-100", "cifar100"), ("CIFAR_10", "cifar10"), ("fashon-mnist", "fashion-mnist")],
)
def test_misspelt_names_get_the_nearest(given, meant):
    assert catalog.suggest(given, catalog.names("dataset")) == meant
    with pytest.raises(NotFound) as caught:
        catalog.entry("dataset", given)
    assert f"did you mean {meant!r}?" in caught.value.hint


def test_nothing_near_suggests_nothing():
    assert catalog.suggest("zzz", catalog.names("dataset")) is None
    with pytest.raises(NotFound) as caught:
        catalog.entry("dataset", "zzz")
    assert caught.value.hint.startswith("kd datasets lists all")


def test_a_method_of_ones_own_is_read_without_being_imported(mine):
    entry = catalog.entry("method", "./mine.py")
    assert (entry.summary, entry.family) == ("Mine: a title.", "logit")
    assert entry.facts == {"teachers": (1, None), "student_taps": ("stage1",)}
    options = catalog.options_class(entry)
    assert (options().strength, options(mode="b").mode) == (2.0, "b")
    with pytest.raises(ValidationError):
        options(strength=0)
    with pytest.raises(ValidationError):
        options(strenght=1)


def test_a_network_of_ones_own_names_its_factory(mine):
    assert catalog.entry("model", "nets.py:tiny").factory == "tiny"
    with pytest.raises(UsageError, match="does not say which function"):
        catalog.entry("model", "nets.py")
    with pytest.raises(NotFound) as caught:
        catalog.entry("model", "nets.py:tinny")
    assert caught.value.hint == "did you mean 'tiny'?"


def test_files_that_cannot_be_read_are_usage_errors(mine):
    with pytest.raises(NotFound, match="no such file"):
        catalog.entry("method", "absent.py")
    with pytest.raises(UsageError, match="is not valid Python"):
        catalog.entry("method", "broken.py")


def test_loading_names_the_file_that_breaks(mine):
    with (
        trusting(["mine.py"]),
        pytest.raises(UsageError, match=r"mine.py cannot be imported: ModuleNotFoundError"),
    ):
        catalog.load(catalog.entry("method", "mine.py"))


OPTIONS = '''\
"""Odd."""

import pathlib
from typing import Annotated, ClassVar, Literal

import numpy as np
from kdcli.core.method import FeatureOptions
from pydantic import Field, PositiveInt, field_validator

pathlib.Path("MARK").touch()


class Shared(FeatureOptions):
    """In the same file."""

    size: PositiveInt = 3


class Options(Shared):
    """Options."""

    pathlib.Path("MARK").touch()
    KINDS: ClassVar[tuple[str, ...]] = ("a",)
    _hidden: int = pathlib.Path("MARK").touch()
    plain: float = 2
    needed: int
    maybe: "int | None" = None
    some: tuple[int, ...] = (1, 2)
    limited: Annotated[float, Field(gt=0)] = Field(0.5, le=1, description="Half.")
    which: Literal["a", "b"] = "a"
    computed: float = np.pi * pathlib.Path("MARK").touch()
    made: list[int] = Field(default_factory=lambda: [pathlib.Path("MARK").touch()], description="Made.")
    strange: np.ndarray = 3

    @field_validator("plain")
    @classmethod
    def _checks(cls, value):
        pathlib.Path("MARK").touch()
        return value
'''


def test_options_of_ones_own_file_are_read_from_its_text_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.py").write_text(OPTIONS, encoding="utf-8")
    options = catalog.options_class(catalog.entry("method", "./odd.py"))
    found = options(needed=1)
    assert (found.size, found.plain, found.maybe, found.some, found.limited) == (
        3,
        2,
        None,
        (1, 2),
        0.5,
    )
    assert found.kd_weight == 0.0  # of the shared base
    for wrong in (
        {"limited": 2},
        {"limited": 0},
        {"size": 0},
        {"which": "c"},
        {"some": "x"},
        {"nedeed": 2},
    ):
        with pytest.raises(ValidationError):
            options(needed=1, **wrong)
    with pytest.raises(ValidationError, match="needed"):
        options()
    unread = {
        name: field.json_schema_extra["unread"]
        for name, field in options.model_fields.items()
        if field.json_schema_extra
    }
    assert unread == {"computed": "default", "made": "default", "strange": "type"}
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("base", ["nowhere.Base", "Missing", "make()"])
def test_options_from_a_class_that_the_text_does_not_show_are_refused(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.py").write_text(
        f"class Options({base}):\n    size: int = 3\n", encoding="utf-8"
    )
    with pytest.raises(UsageError, match="cannot read without running the file"):
        catalog.options_class(catalog.entry("method", "odd.py"))


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_one_entry_is_what_the_listing_says_of_it(kind):
    for name, listed in catalog.entries(kind).items():
        assert catalog.entry(kind, name) == listed


def test_for_one_method_the_files_of_others_are_not_parsed():
    program = (
        "import ast; parse = ast.parse; parsed = []\n"
        "ast.parse = lambda *a, **k: parsed.append(k.get('filename')) or parse(*a, **k)\n"
        "from kdcli import catalog\n"
        "for kind, name in (('method', 'skd'), ('model', 'resnet20'), ('dataset', 'cifar10')):\n"
        "    catalog.options_class(catalog.entry(kind, name))\n"
        "print(*parsed, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    parsed = {Path(line).stem for line in done.stdout.splitlines()}
    assert "skd" in parsed
    assert "dkd" not in parsed
    assert len(parsed) < 10


def test_an_installed_package_adds_a_method_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_method.py").write_text(METHOD)
    installed = tmp_path / "theirs-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[kdcli.methods]\nborrowed = their_method\n")
    monkeypatch.syspath_prepend(tmp_path)
    catalog.entries.cache_clear()
    try:
        found = catalog.entry("method", "borrowed")
        assert found.summary == "Mine: a title."
        assert catalog.options_class(found).model_fields.keys() == {"strength", "mode"}
    finally:
        monkeypatch.undo()
        catalog.entries.cache_clear()
