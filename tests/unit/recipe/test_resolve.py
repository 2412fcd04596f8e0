"""What is chosen automatically, and which teachers are refused before torch is imported."""

from __future__ import annotations

import pytest

from kdcli.errors import BadCheckpoint, Exit, Incompatible, NotFound
from kdcli.recipe.resolve import Flag, kind_of, resolve, teacher_recipe
from tests.unit.recipe.conftest import refused, told


def taught(path, *more, **arguments):
    return resolve(
        "distill",
        flags=[Flag("--teacher", "teacher.checkpoint", str(path)), *more],
        environ={},
        **arguments,
    )


def data(name):
    return Flag("--data", "data.name", name)


# ---- without a file ------------------------------------------------------------------------------


def test_nothing_at_all_is_the_quickstart(here):
    teacher, student = (
        resolve("train-teacher", environ={}),
        resolve("distill", sets=["train.epochs=2"], environ={}),
    )
    assert (
        teacher.recipe.model.name,
        student.recipe.student.name,
        student.recipe.train.epochs,
    ) == ("cnn-large", "cnn-small", 2)
    assert student.path is None
    assert any("recipes/quickstart.toml" in note for note in student.notes)


def test_the_quickstart_without_a_teacher_is_its_baseline(here):
    found = resolve("distill", flags=[Flag("--method", "method.name", "none")], environ={})
    assert found.recipe.teacher == ()


@pytest.mark.parametrize(
    ("teachers", "expected"),
    [
        ('path = "photos"', ("photos", 0.2, 3)),
        ('path = "others"\ntest_fraction = 0.5', ("others", 0.5, None)),
    ],
)
def test_a_teacher_by_recipe_is_tested_on_what_its_student_is(here, teachers, expected):
    (here / "teacher.toml").write_text(
        f'[model]\nname = "cnn-large"\n[data]\nname = "parquet"\n{teachers}\n'
    )
    values = {"teacher.recipe": str(here / "teacher.toml"), "student.name": "cnn-small"}
    data = {"name": "parquet", "path": "photos", "test_fraction": 0.2, "test_seed": 3}
    student = resolve(
        "distill", values={**values, **{f"data.{key}": value for key, value in data.items()}}
    ).recipe
    found = teacher_recipe(student.teacher[0], student)[0].recipe.data
    assert (found.path, found.test_fraction, found.test_seed) == expected


@pytest.mark.parametrize("fraction", [0.2, 0.1])
def test_a_teacher_of_another_test_part_is_refused(checkpoint, fraction):
    """It was trained on what is tested on."""
    data = {"name": "parquet", "path": "photos", "test_fraction": 0.2, "test_seed": 3}
    path = checkpoint(data=data)
    sets = ["student.name=cnn-small", f"data.test_fraction={fraction}"]
    assert taught(path, sets=sets).recipe.data.test_seed == 3
    with pytest.raises(
        Incompatible, match=r"data\.test_seed = 3 divided photos then, and 4 does now"
    ):
        taught(path, sets=[*sets, "data.test_seed=4"])


@pytest.mark.parametrize("place", ["photos", "./photos", "absolute"])
def test_a_teacher_of_a_smaller_test_part_is_refused_however_the_folder_is_written(
    checkpoint, tmp_path, monkeypatch, place
):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(data={"name": "parquet", "path": "photos", "test_fraction": 0.2})
    now = str(tmp_path / "photos") if place == "absolute" else place
    sets = ["student.name=cnn-small", f"data.path={now}"]
    assert taught(path, sets=[*sets, "data.test_fraction=0.2"])
    with pytest.raises(
        Incompatible, match=r"data\.test_fraction = 0\.2 divided .*photos then, and 0\.3 does now"
    ):
        taught(path, sets=[*sets, "data.test_fraction=0.3"])


def test_data_and_student_follow_from_the_teachers_file(checkpoint):
    found = taught(
        checkpoint(
            data={"name": "synthetic", "classes": 20, "dim": 64, "val_fraction": 0.2},
            num_classes=20,
            class_names=tuple(map(str, range(20))),
            input_shape=(1, 1, 64),
        )
    )
    recipe = found.recipe
    assert (recipe.data.name, recipe.data.classes, recipe.data.dim, recipe.data.val_fraction) == (
        "synthetic",
        20,
        64,
        0.0,
    )
    assert recipe.student.name == "cnn-small"
    assert {found.origins[key] for key in ("data.name", "data.classes", "student.name")} == {
        "teacher's file"
    }
    assert "student cnn-small: the smaller sibling of the teacher's cnn-large" in found.notes


def test_what_is_set_is_not_filled_in(checkpoint):
    found = taught(checkpoint(), Flag("--student", "student.name", "cnn-large"), data("digits"))
    assert (found.recipe.student.name, found.origins["data.name"], found.notes) == (
        "cnn-large",
        "--data",
        (),
    )


def test_no_sibling_asks_for_a_student(checkpoint):
    error = refused(
        flags=[Flag("--teacher", "teacher.checkpoint", str(checkpoint(architecture="mine.py:net")))]
    )
    ((problem, hint, _),) = told(error).values()
    assert "no smaller sibling of the teacher's mine.py:net" in problem
    assert "--student NAME" in hint


def test_a_run_directory_is_a_checkpoint(checkpoint):
    assert taught(checkpoint().parent).recipe.data.name == "digits"


# ---- teachers that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("cifar100", {}, "teacher predicts 10 classes, cifar100 has 100"),
        ("cifar10", {}, "teacher takes images of 1×8×8, cifar10 has 3×32×32"),
    ],
)
def test_classes_and_shape_must_fit_the_data(checkpoint, name, changes, says):
    with pytest.raises(Incompatible) as caught:
        taught(checkpoint(**changes), data(name))
    assert (caught.value.message, caught.value.where.file) == (says, "runs/t/model.safetensors")
    a_map = "; or teacher.classes says which of its classes are which of the data's"
    assert caught.value.hint == (
        f"-d digits, which it was trained on, or a teacher trained on {name}"
        + a_map * ("classes" in says)
    )
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"path": "pets", "size": 32}, "distil on pets as it was when the teacher was trained, or"),
        ({}, "distil on the data that it was trained on, or"),
    ],
)
def test_a_hint_does_not_send_from_a_folder_to_a_folder(theirs, says):
    """Both are called image-folder: "a teacher trained on image-folder" would lead nowhere."""
    from kdcli.recipe.teacher_facts import Images, Known, check_fit

    shape = (3, theirs.get("size", 32), theirs.get("size", 32))
    teacher = Known(
        "t", "teacher's file", "cnn-small", {"name": "image-folder", **theirs}, 3, shape
    )
    with pytest.raises(Incompatible) as caught:
        check_fit(teacher, Images("image-folder", 4, (3, 32, 32)))
    assert caught.value.hint.startswith(says)
    assert "kd train-teacher -d image-folder" in caught.value.hint


def test_classes_in_another_order_are_refused():
    from kdcli.recipe.teacher_facts import Images, Known, check_fit

    known = Known(
        "t", "teacher's file", "cnn-large", {"name": "pets"}, 2, (3, 8, 8), ("dog", "cat")
    )
    with pytest.raises(
        Incompatible, match="in another order: class 0 is 'dog' to it and 'cat' there"
    ):
        check_fit(known, Images("animals", 2, (3, 8, 8), ("cat", "dog")))
    with pytest.raises(Incompatible, match="other classes"):
        check_fit(known, Images("animals", 2, (3, 8, 8), ("cat", "cow")))
    check_fit(known, Images("animals", 2, None, None))


def test_pictures_are_resized_and_grey_is_repeated_but_colours_are_not_turned_grey():
    from kdcli.recipe.teacher_facts import channels_differ

    assert not channels_differ((3, 224, 224), (3, 32, 32))
    assert not channels_differ((3, 224, 224), (1, 8, 8))
    assert channels_differ((1, 8, 8), (3, 8, 8))
    assert channels_differ((1, 1, 64), (1, 1, 32))  # vectors
    assert channels_differ((1, 1, 64), (1, 8, 8))


def test_a_future_teacher_must_fit_too(write):
    path = write(
        "r.toml",
        (
            '[data]\nname = "cifar10"\n[student]\nname = "cnn-small"\n[teacher]\nrecipe = '
            '"quickstart-teacher"\n'
        ),
    )
    with pytest.raises(Incompatible, match="1×8×8, cifar10 has 3×32×32"):
        resolve("distill", file=path, environ={})


def test_a_checkpoint_that_is_not_there(here):
    with pytest.raises(NotFound, match="no checkpoint at runs/x"):
        taught("runs/x")


def test_broken_and_foreign_checkpoints_are_the_users_mistake(here, checkpoint):
    path = checkpoint()
    path.write_bytes(path.read_bytes()[:-1])
    (here / "foreign.safetensors").write_bytes(b"PK\x03\x04 not ours at all")
    for broken, says in ((path, "truncated"), ("foreign.safetensors", "not a safetensors file")):
        with pytest.raises(BadCheckpoint, match=says) as caught:
            taught(broken)
        assert caught.value.exit_code == Exit.USAGE


def test_a_bad_checkpoint_is_told_with_the_recipes_other_problems(write):
    path = write("r.toml", '[teacher]\ncheckpoint = "runs/x"\n[train]\nepoch = 3\n')
    problems = told(refused(file=path))
    assert problems.keys() == {"teacher.checkpoint", "train.epoch"}
    assert problems["teacher.checkpoint"][2] == "r.toml:2:14"


def test_problems_of_the_teachers_recipe_are_told_with_its_name(write):
    write("sub/teacher.toml", '[model]\nname = "cnn-lrage"\n[train]\nepoch = 3\n')
    error = refused(
        file=write("sub/r.toml", '[teacher]\nrecipe = "teacher.toml"\n[optim]\nlr = 0\n')
    )
    assert error.message == "3 problems in sub/r.toml and sub/teacher.toml"
    assert told(error)["model.name"][1].startswith("did you mean 'cnn-large'?")


def test_a_network_without_weights_is_no_teacher(write):
    with pytest.raises(Incompatible, match="comes without weights"):
        resolve(
            "distill",
            file=write("r.toml", '[teacher]\nname = "cnn-large"\n[student]\nname = "cnn-small"\n'),
            environ={},
        )


# ---- how many teachers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "count", "says"),
    [
        ("none", 1, "none takes no teacher, got 1"),
        ("kd", 0, "missing: kd needs one or more teachers"),
    ],
)
def test_the_number_of_teachers_must_fit_the_method(write, checkpoint, method, count, says):
    checkpoint()
    given = '[[teacher]]\ncheckpoint = "runs/t"\n' * count
    path = write("r.toml", f'{given}[method]\nname = "{method}"\n[student]\nname = "cnn-small"\n')
    assert told(refused(file=path))["teacher"][0] == says


def test_a_method_of_ones_own_says_how_many_it_takes(write, checkpoint):
    body = (
        "class Options:\n    strength: float = 1.0\n\n\nclass Mine(Method):\n    teachers = "
        "Arity(2, 2)\n"
    )
    write("mine.py", f'"""Mine."""\n{body}')
    error = refused(
        flags=[
            Flag("-t", "teacher.checkpoint", str(checkpoint())),
            Flag("-m", "method.name", "./mine.py"),
        ]
    )
    assert told(error)["teacher"][0] == "./mine.py takes 2 teachers, got 1"


def test_an_option_may_not_have_the_name_of_a_common_key(write):
    write("mine.py", '"""Mine."""\n\n\nclass Options:\n    name: str = "x"\n')
    error = refused(flags=[Flag("-m", "method.name", "./mine.py")])
    assert (
        "the option 'name' has the name of a key that every method has"
        in told(error)["method.name"][0]
    )


def test_train_teacher_takes_only_methods_without_teachers(write):
    path = write("r.toml", '[model]\nname = "cnn-large"\n[method]\nname = "kd"\n')
    assert told(refused("train-teacher", file=path))["method.name"][0] == "kd needs a teacher"


def test_kind_of_a_file(write):
    assert kind_of(write("a.toml", '[model]\nname = "cnn-large"')) == "train-teacher"
    assert kind_of(write("b.toml", 'extends = "a.toml"')) == "train-teacher"
    assert kind_of("quickstart") == "distill"
