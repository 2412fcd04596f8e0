"""What holds of every method. A new method is tested from the day its file appears."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tomli_w
import torch

from kdcli import catalog
from kdcli.core.class_weights import ClassWeights, weighing
from kdcli.core.method import Method, Stage, on_labels
from kdcli.core.mixed_labels import Mixed, mixing
from kdcli.core.network import Network
from kdcli.core.teacher import Ensemble, Teacher
from kdcli.core.types import Batch, Output, Progress, Step
from kdcli.engine.teachers.inference import InferenceTeacher
from kdcli.errors import Incompatible
from kdcli.jobs.build.recipe_checks import check_mixes
from kdcli.recipe.schema import Augment, DataSection

NAMES = catalog.names("method")

# methods that compare samples with each other: for them two half batches are not one whole
BATCH_RELATIONS: frozenset[str] = frozenset(
    {
        "cc",
        "crd",
        "dist",
        "dist_plus",
        "mlkd",
        "pkt",
        "rkd",
        "semckd",
        "sp",
        "srd",
        "uskd",
    }
)

# methods that read their teacher's weights before training and never ask it about an image
WEIGHTS_ONLY: frozenset[str] = frozenset({"kd_sim"})

every_method = pytest.mark.parametrize("name", NAMES)


def method_class(name: str) -> type[Method]:
    """The one Method subclass that the file of a method defines."""
    module = catalog.load(catalog.entry("method", name))
    own = (
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__ == module.__name__
    )
    (found,) = (thing for thing in own if issubclass(thing, Method))
    return found


@pytest.fixture
def method(name, make_setup) -> Method:
    return make(name, make_setup)


def make(name, make_setup) -> Method:
    cls = method_class(name)
    return cls(cls.Options(), make_setup(cls))


def phases(method: Method) -> Iterator[tuple[Stage, Progress]]:
    """Each stage with only its own modules trainable, as the engine does it, at its first step."""
    for stage in method.stages():
        method.requires_grad_(False).eval()
        for module in stage.trains:
            module.requires_grad_(True).train()
        at = Progress(stage.name, epoch=1, epochs=2, step=0, steps=2)
        method.on_epoch(at)
        yield stage, at


def total(step: Step) -> torch.Tensor:
    return torch.stack(list(step.losses.values())).sum()


# ---- what a listing shows ------------------------------------------------------------------------


@every_method
def test_the_docstring_follows_the_template(name):
    doc = catalog.entry("method", name).doc
    title, _, body = doc.partition("\n")
    assert title
    assert not title.endswith(".")
    for heading in ("Paper:", "Reference code:", "Differs from the paper:"):
        assert re.search(rf"^{heading} \S", body, re.MULTILINE), f"{heading} is missing"
    assert re.search(r"^    \S.* = .*$", body, re.MULTILINE), (
        "the loss is not written as an equation on a line of its own"
    )


@every_method
def test_a_listing_tells_the_truth_without_importing_the_method(name):
    entry, cls = catalog.entry("method", name), method_class(name)
    assert entry.family != "own"
    for fact in ("teachers", "consumes"):
        assert fact in vars(cls), f"{fact} is for people who read the list: state it in the file"
    for fact in ("teachers", "student_taps", "teacher_taps", "cacheable", "consumes", "trains"):
        if fact in vars(cls):
            assert entry.facts.get(fact) == getattr(cls, fact)


@every_method
def test_options_read_without_torch_are_those_of_the_method(name):
    alone = catalog.options_class(catalog.entry("method", name))
    assert alone.model_json_schema() == method_class(name).Options.model_json_schema()


@every_method
def test_every_option_is_described_and_has_a_default(name):
    for key, field in method_class(name).Options.model_fields.items():
        assert field.description, key
        assert not field.is_required(), key


@every_method
def test_options_survive_json_and_a_recipe(name):
    cls = method_class(name).Options
    options = cls()
    assert cls.model_validate_json(options.model_dump_json()) == options
    table = tomli_w.dumps(json.loads(options.model_dump_json(exclude_none=True)))
    assert cls.model_validate(tomllib.loads(table)) == options


# ---- what the engine relies on -------------------------------------------------------------------


@every_method
def test_losses_are_finite_scalars_and_logits_are_rows(method, batch):
    for stage, at in phases(method):
        step = stage.loss(batch, at)
        assert step.losses
        assert all(
            value.ndim == 0 and value.dtype == torch.float32 and value.isfinite()
            for value in step.losses.values()
        )
        assert step.logits.shape == (len(batch.y), method.data.num_classes)


@every_method
def test_a_step_against_the_gradient_lowers_the_loss(method, batch):
    for stage, at in phases(method):
        buffers = copy.deepcopy(dict(method.named_buffers()))
        before = total(stage.loss(batch, at))
        before.backward()
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        length = torch.stack([parameter.grad.norm() for parameter in trained]).norm()
        torch.optim.SGD(trained, lr=0.01 / length.item()).step()
        for key, buffer in method.named_buffers():
            buffer.copy_(buffers[key])
        assert total(stage.loss(batch, at)) < before


@every_method
def test_gradients_reach_exactly_what_the_stage_trains(method, batch):
    teachers = [teacher.network for teacher in method.teacher_nets]
    for stage, at in phases(method):
        method.zero_grad()
        total(stage.loss(batch, at)).backward()
        trained = {id(parameter) for module in stage.trains for parameter in module.parameters()}
        got = {id(parameter) for parameter in method.parameters() if parameter.grad is not None}
        assert got == trained
        assert all(
            parameter.grad is None and not parameter.requires_grad
            for net in teachers
            for parameter in net.parameters()
        )


@every_method
def test_a_method_says_whether_a_loss_of_it_has_two_parts(method, batch):
    """So that separate momenta (optim.dot) are refused to those alone that have nothing to part."""
    divided = False
    for stage, at in phases(method):
        of_labels = [on_labels(term) for term in stage.loss(batch, at).losses]
        divided |= any(of_labels) and not all(of_labels)
    assert bool(method.undivided(method.options)) == (not divided)


@every_method
def test_class_weights_reach_the_loss_and_change_nothing_where_they_are_one(method, batch):
    weights = ClassWeights(torch.ones(method.data.num_classes))
    for stage, at in phases(method):
        buffers = copy.deepcopy(dict(method.named_buffers()))
        plain = total(stage.loss(batch, at))
        for key, buffer in method.named_buffers():
            buffer.copy_(buffers[key])
        with weighing(weights):
            torch.testing.assert_close(total(stage.loss(batch, at)), plain)
    # the feature losses have a weight of cross-entropy of their own, which may be 0
    assert weights.used or getattr(method.options, "ce_weight", None) == 0


@every_method
def test_of_a_mixture_both_labels_count_by_their_shares_or_it_is_refused(name, method, batch):
    if not method.mixes:
        with pytest.raises(Incompatible, match=f"mixes pictures, and {name} takes each for one"):
            check_mixes(DataSection(name="digits", augment=Augment(mixup=1.0)), name)
        return
    others = batch.y.roll(1)
    for stage, at in phases(method):
        buffers = copy.deepcopy(dict(method.named_buffers()))

        def loss(given, stage=stage, at=at, buffers=buffers):
            for key, buffer in method.named_buffers():
                buffer.copy_(buffers[key])
            with mixing(given.mixed):
                return total(stage.loss(given, at))

        expected = 0.7 * loss(batch) + 0.3 * loss(replace(batch, y=others))
        mixed = loss(replace(batch, mixed=Mixed(others, 0.7)))
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


@every_method
def test_a_loss_takes_no_random_number_from_the_global_generator(method, batch):
    for stage, at in phases(method):
        before = torch.get_rng_state()
        stage.loss(batch, at)
        assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_the_state_holds_all_of_the_method_and_nothing_of_a_teacher(name, make_setup, batch):
    method, other = make(name, make_setup), make(name, make_setup)
    theirs = {
        value.data_ptr()
        for teacher in method.teacher_nets
        for value in teacher.network.state_dict().values()
    }
    state = method.state_dict()
    assert not theirs & {value.data_ptr() for value in state.values()}
    for stage, at in phases(method):
        stage.loss(batch, at)  # moves batch norms and banks
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.1)
    other.load_state_dict(state)
    for (stage, at), (again, _) in zip(phases(method), phases(other), strict=True):
        assert torch.equal(total(stage.loss(batch, at)), total(again.loss(batch, at)))


@every_method
def test_the_result_runs_alone(name, make_setup, batch):
    method = make(name, make_setup)
    network = copy.deepcopy(method.deployable())
    expected = method.eval().deployable()(batch.x).logits
    del method
    assert isinstance(network, Network)
    assert torch.equal(network.eval()(batch.x).logits, expected)


@every_method
def test_bfloat16_networks_give_nearly_the_same_loss(method, batch):
    for stage, at in phases(method):
        method.eval()  # a batch norm in train mode would move between the two
        exact = total(stage.loss(batch, at))
        with torch.autocast("cpu", torch.bfloat16):
            step = stage.loss(batch, at)
        assert all(value.dtype == torch.float32 for value in step.losses.values())
        assert total(step).item() == pytest.approx(exact.item(), rel=0.05, abs=0.02)


@every_method
def test_teachers_in_bfloat16_answer_a_float32_step(name, make_setup, batch):
    """As a student that gains nothing from bfloat16 has them."""

    def low(teacher: Teacher) -> Teacher:
        return InferenceTeacher(teacher, torch.bfloat16, channels_last=False)

    cls = method_class(name)
    setup = make_setup(cls)
    taught = replace(
        setup,
        teachers=tuple(low(teacher) for teacher in setup.teachers),
        load=lambda path: low(setup.load(path)),
    )
    exactly, nearly = make(name, make_setup), cls(cls.Options(), taught)
    nearly.load_state_dict(exactly.state_dict())
    for (stage, at), (again, _) in zip(phases(exactly), phases(nearly), strict=True):
        exactly.eval(), nearly.eval()
        expected, found = stage.loss(batch, at), again.loss(batch, at)
        assert total(found).item() == pytest.approx(total(expected).item(), rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BATCH_RELATIONS])
def test_two_half_batches_accumulate_to_the_gradient_of_one(method, batch):
    def half(part: slice) -> Batch:
        return Batch(batch.x[part], batch.y[part], batch.index[part], batch.view[part])

    def gradients(parts: list[Batch], stage: Stage, at: Progress) -> list[torch.Tensor]:
        method.zero_grad()
        for part in parts:
            (total(stage.loss(part, at)) / len(parts)).backward()
        return [
            parameter.grad.clone() for parameter in method.parameters() if parameter.requires_grad
        ]

    for stage, at in phases(method):
        method.eval()  # batch norm in train mode looks at the whole batch
        whole = gradients([batch], stage, at)
        accumulated = gradients([half(slice(8)), half(slice(8, 16))], stage, at)
        for one, two in zip(whole, accumulated, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


# ---- what a method declares ----------------------------------------------------------------------


class Watched(Teacher):
    """A teacher that remembers which taps it was asked for."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.network)
        self.asked: set[str] = set()
        self.calls = 0

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        self.asked |= set(taps)
        self.calls += 1
        return super().__call__(batch, taps)


@every_method
def test_teachers_are_asked_for_what_is_declared(name, method, batch):
    method.teacher_nets = tuple(Watched(teacher) for teacher in method.teacher_nets)
    for stage, at in phases(method):
        for epoch in (at.epoch, at.epochs):  # some hear it in their last epoch only
            now = replace(at, epoch=epoch)
            method.on_epoch(now)
            stage.loss(batch, now)
    asked = set().union(*(teacher.asked for teacher in method.teacher_nets))
    assert asked == set(method.taps.teacher)
    assert not (getattr(method, "cacheable", False) and asked)
    assert all((teacher.calls == 0) == (name in WEIGHTS_ONLY) for teacher in method.teacher_nets)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if method_class(name).teachers.most is None]
)
def test_a_method_that_takes_any_number_of_teachers_takes_their_mean(name, make_setup, batch):
    method = make(name, make_setup)
    method.teacher_nets = (Ensemble([method.teacher, make_setup(type(method)).load("other")]),)
    for stage, at in phases(method):
        assert total(stage.loss(batch, at)).isfinite()


@every_method
def test_aligned_logits_classify_like_the_raw_ones(method):
    z, v = (
        torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
        torch.randn(6, 5, generator=torch.Generator().manual_seed(1)),
    )
    aligned, _ = method.aligned(method.options, z, v)
    assert aligned.shape == z.shape
    assert torch.equal(aligned.argmax(-1), z.argmax(-1))


@every_method
def test_what_is_watched_is_the_methods_own_and_bears_its_own_name(method):
    own = set(method.modules())
    for name, network in method.watched().items():
        assert name not in {"student", "network", "teacher", "reference"}
        assert network in own
        assert network is not method.student
