"""A dumped recipe re-reads to an equal one, and the hash covers exactly what changes the result."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from kdcli.recipe import writing
from kdcli.recipe.resolve import Flag, resolve
from kdcli.recipe.schema import NO_EFFECT, DistillRecipe, TeacherSection, TrainSection
from kdcli.recipe.writing import dump, recipe_hash


def solve(*sets, **arguments):
    return resolve("distill", sets=sets, **{"environ": {}, **arguments})


def again(recipe, path):
    path.write_text(dump(recipe), encoding="utf-8")
    return resolve(recipe.KIND, file=path, environ={}).recipe


ODD_TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
VALUES = {
    "seed": st.integers(0, 2**63 - 1),
    "name": st.from_regex(r"[A-Za-z0-9._+-]+", fullmatch=True),
    "data.root": ODD_TEXT,
    "data.val_fraction": st.floats(0, 1, exclude_max=True),
    "data.train_limit": st.integers(2, 10**9),
    "data.augment.crop": st.integers(0, 32),
    "data.augment.flip": st.booleans(),
    "train.epochs": st.integers(1, 10**6),
    "train.ema": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "train.clip_norm": st.floats(0, 1e12, exclude_min=True),
    "optim.lr": st.floats(0, 1e12, exclude_min=True),
    "schedule.floor": st.floats(0, 1),
    "method.weight": st.floats(0, 1),
    "gates.max_entropy_gap": st.floats(-1e12, 1e12),
    "report.temperatures": st.lists(st.floats(0, 1e12, exclude_min=True), min_size=1, max_size=4),
    "student.init": ODD_TEXT,
}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_any_recipe_re_reads_to_itself(tmp_path, values):
    recipe = resolve("distill", values=values, environ={}).recipe
    found = again(recipe, tmp_path / "recipe.toml")
    assert found == recipe
    assert recipe_hash(found) == recipe_hash(recipe)


@pytest.mark.parametrize(
    "sets",
    [
        ["data.name=synthetic", "data.classes=20", "teacher=[]", "method.name=none"],
        [
            "optim.name=adamw",
            "schedule.name=multistep",
            "schedule.milestones=[3, 5]",
            "method.weight_schedule=[[60, 0.5]]",
        ],
    ],
)
def test_branches_re_read_to_themselves(tmp_path, sets):
    recipe = solve(*sets).recipe
    assert again(recipe, tmp_path / "recipe.toml") == recipe


def test_several_teachers_re_read_to_themselves(tmp_path, checkpoint):
    paths = [str(checkpoint("a/model.safetensors")), str(checkpoint("b/model.safetensors"))]
    recipe = solve(flags=[Flag("-t", "teacher.checkpoint", paths)]).recipe
    assert again(recipe, tmp_path / "recipe.toml") == recipe


def test_every_line_says_where_its_value_came_from():
    found = solve("train.epochs=3", flags=[Flag("--seed", "seed", 4)])
    text = dump(found.recipe, found.origins)
    comments = {
        line.split(" = ")[0]: line.partition("  # ")[2]
        for line in text.splitlines()
        if " = " in line
    }
    assert (comments["epochs"], comments["seed"], comments["batch_size"]) == (
        "--set",
        "--seed",
        "default",
    )
    assert comments["recipe"].startswith("recipes/quickstart.toml:")
    assert all(comments.values())
    assert tomllib.loads(text) == tomllib.loads(dump(found.recipe))


@pytest.mark.parametrize(
    "change",
    [
        "name=x",
        "runtime.device=cpu",
        "runtime.threads=1",
        "runtime.workers=2",
        "report.html=false",
        "gates.min_accuracy=0.5",
        "data.root=x",
    ],
)
def test_what_changes_no_result_changes_no_hash(change):
    assert recipe_hash(solve(change).recipe) == recipe_hash(solve().recipe)


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "train.epochs=2",
        "method.weight=0.5",
        "optim.lr=0.1",
        "runtime.precision=fp32",
        "data.val_fraction=0.1",
    ],
)
def test_what_changes_the_result_changes_the_hash(change):
    assert recipe_hash(solve(change).recipe) != recipe_hash(solve().recipe)


def test_a_key_that_does_nothing_changes_no_hash():
    """A run is found again by a kd that has learnt new keys since."""

    class NewTrain(TrainSection):
        smoothing: float = Field(0.0, json_schema_extra={NO_EFFECT: 0.0})
        noise: float | None = None

    class NewTeacher(TeacherSection):
        sharpen: bool = Field(default=False, json_schema_extra={NO_EFFECT: False})

    class NewRecipe(DistillRecipe):
        train: NewTrain = Field(default_factory=NewTrain)
        teacher: tuple[NewTeacher, ...] = ()

    old = solve().recipe

    def digest(train=(), teacher=()):
        sections = {key: getattr(old, key) for key in type(old).model_fields}
        sections["train"] = NewTrain(**old.train.model_dump(), **dict(train))
        sections["teacher"] = (NewTeacher(**old.teacher[0].model_dump(), **dict(teacher)),)
        return recipe_hash(NewRecipe(**sections))

    assert digest() == recipe_hash(old)
    for change in (
        {"train": {"smoothing": 0.1}},
        {"train": {"noise": 0.0}},
        {"teacher": {"sharpen": True}},
    ):
        assert digest(**change) != recipe_hash(old)


def test_an_option_of_a_method_that_does_nothing_changes_no_hash(monkeypatch):
    def hashed(*sets):
        """What the hash of a recipe of kd is taken of, its method."""
        taken = []
        with monkeypatch.context() as patch:
            patch.setattr(writing, "sha256_json", taken.append)
            recipe_hash(solve("method.name=kd", *sets).recipe)
        return taken[-1]["method"]

    # as in the days before kd had the option
    plain = hashed()
    assert "divergence" not in plain
    assert hashed("method.divergence=forward") == plain
    assert hashed("method.divergence=js") == {**plain, "divergence": "js"}


def test_a_teacher_counts_by_its_weights_wherever_it_lies(checkpoint):
    def digest(path):
        return recipe_hash(solve(flags=[Flag("-t", "teacher.checkpoint", str(path))]).recipe)

    first, copy = checkpoint("a/model.safetensors"), checkpoint("b/model.safetensors")
    other = checkpoint("c/model.safetensors", tensors_sha256="5b")
    assert digest(first) == digest(copy) == digest("a")
    assert digest(first) != digest(other)


def test_weights_of_a_file_count_by_its_content(tmp_path):
    def digest(name, content):
        (tmp_path / name).write_bytes(content)
        change = (f"student.weights={tmp_path / name}", "student.name=timm/resnet18")
        return recipe_hash(solve(*change).recipe)

    assert digest("a.safetensors", b"1") == digest("b.safetensors", b"1")
    assert digest("a.safetensors", b"1") != digest("a.safetensors", b"2")


def test_a_teachers_recipe_counts_by_its_content(write):
    path = write("r.toml", '[teacher]\nrecipe = "t.toml"\n[student]\nname = "cnn-small"\n')

    def digest(text):
        write("t.toml", text)
        return recipe_hash(solve(file=path).recipe)

    first = digest('[model]\nname = "cnn-large"\n')
    assert (
        digest('# a comment\n[model]\nname = "cnn-large"\n[gates]\nmin_accuracy = 0.5\n') == first
    )
    assert digest('seed = 1\n[model]\nname = "cnn-large"\n') != first


def test_ones_own_method_counts_by_its_content(write):
    def digest(name, body):
        write(name, f'"""Mine."""\n{body}\nclass Mine(Method):\n    teachers = Arity(1, 1)\n')
        return recipe_hash(solve(flags=[Flag("-m", "method.name", f"./{name}")]).recipe)

    assert digest("a.py", "x = 1") == digest("b.py", "x = 1") != digest("c.py", "x = 2")
