"""What holds of every method under the trainer: it goes on exactly where it stopped, alone and on
several ranks.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import multiprocessing

from kdcli import catalog
from kdcli.core import random
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output
from kdcli.engine.checkpoint import digest, load_state
from kdcli.engine.events import StepDone
from kdcli.engine.trainer import Hooks
from kdcli.errors import Interrupted
from tests.catalogue import ranks
from tests.catalogue.test_methods import make, method_class, phases, total
from tests.catalogue.training import NoiseFeed, make_trainer

NAMES = catalog.names("method")

every_method = pytest.mark.parametrize("name", NAMES)
DIVIDED = ("srd dot 0.075",)  # momenta of labels and of the rest apart


@every_method
def test_stopped_anywhere_it_goes_on_to_the_very_same_bits(name, make_setup, tmp_path):
    cls = method_class(name)
    steps = []
    straight = make_trainer(
        cls,
        make_setup,
        hooks=Hooks(
            listeners=[lambda event: steps.append(event) if isinstance(event, StepDone) else None]
        ),
    )
    expected = digest(straight.run().state_dict())
    whole = digest(straight.method.state_dict())
    ends = [
        place
        for place, step in enumerate(steps, 1)
        if place == len(steps) or step.at.stage != steps[place].at.stage
    ]
    for stage, end in enumerate(ends):
        first = ends[stage - 1] if stage else 0
        stop = first + 1 + random.integers_int(random.key(stage, name), 0, end - first)
        asked = iter(range(1, 10_000))
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            make_trainer(
                cls,
                make_setup,
                folder=folder,
                hooks=Hooks(
                    stop=lambda at=stop, asked=asked: (
                        Interrupted("stop") if next(asked) == at else None
                    )
                ),
            ).run()
        resumed = make_trainer(cls, make_setup, resume=load_state(folder))
        assert digest(resumed.run().state_dict()) == expected, (
            f"stopped after step {stop} of {len(steps)}"
        )
        assert digest(resumed.method.state_dict()) == whole, (
            f"stopped after step {stop} of {len(steps)}: helpers differ"
        )


def test_separate_momenta_go_on_to_the_very_same_bits(make_setup, tmp_path):
    def trainer(**rest):
        return make_trainer(method_class("srd"), make_setup, dot=0.075, **rest)

    whole = trainer()
    expected = digest(whole.run().state_dict())
    usual = make_trainer(method_class("srd"), make_setup).run()
    assert digest(usual.state_dict()) != expected
    asked = iter(range(1, 10))
    stop = Hooks(stop=lambda: Interrupted("stop") if next(asked) == 4 else None)
    with pytest.raises(Interrupted):
        trainer(folder=tmp_path, hooks=stop).run()
    assert digest(trainer(resume=load_state(tmp_path)).run().state_dict()) == expected


class Stored(Teacher):
    """Answers from a table of logits alone, as a cache on disk does: by sample and view, without a
    look at the image.
    """

    def __init__(self, teacher: Teacher, feed: NoiseFeed) -> None:
        super().__init__(teacher.network)
        (everything,) = feed.split("train")
        self._table = teacher(everything).logits.half()

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> Output:
        assert not taps
        return Output(self._table[batch.index].float(), {})


@pytest.mark.parametrize("name", [name for name in NAMES if method_class(name).cacheable])
def test_stored_teacher_logits_serve_where_that_is_declared(name, make_setup):
    live, stored = make(name, make_setup), make(name, make_setup)
    feed = NoiseFeed(live.data)
    stored.teacher_nets = tuple(Stored(teacher, feed) for teacher in stored.teacher_nets)
    batch = next(feed.train(1))
    for (stage, at), (other, _) in zip(phases(live), phases(stored), strict=True):
        # half precision has eleven bits
        assert total(other.loss(batch, at)).item() == pytest.approx(
            total(stage.loss(batch, at)).item(), rel=2e-3, abs=2e-3
        )


@pytest.fixture(scope="module")
def trained_on_two_ranks(tmp_path_factory) -> Path:
    """The folder of what two processes wrote when they had trained all methods."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    written = [folder / f"{rank}{kind}.json" for rank in range(2) for kind in ("", "-threads")]
    try:
        multiprocessing.start_processes(
            ranks.train_all, (2, str(folder), (*NAMES, *DIVIDED)), nprocs=2, start_method="spawn"
        )
    except multiprocessing.ProcessExitedException:
        # as for kd's launcher, a rank that has said what it ended with has done its work
        if not all(file.exists() for file in written):
            raise
    return folder


@pytest.fixture(scope="module")
def two_ranks(trained_on_two_ranks) -> dict[str, list[dict[str, str]]]:
    """What two processes ended with, by method: for each rank the digests of student and whole
    method.
    """
    found = [json.loads((trained_on_two_ranks / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [each[name] for each in found] for name in (*NAMES, *DIVIDED)}


@pytest.mark.parametrize("name", [*NAMES, *DIVIDED])
def test_two_ranks_end_with_the_same_weights(name, two_ranks):
    first, second = two_ranks[name]
    assert "error" not in first, first["error"]
    assert "error" not in second, second["error"]
    assert first == second


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc: threads have no names")
def test_no_thread_of_gloo_outlives_the_group(trained_on_two_ranks):
    """A thread that is left when Python ends may abort the process."""
    for rank in range(2):
        left = json.loads((trained_on_two_ranks / f"{rank}-threads.json").read_text())
        assert not [name for name in left if "gloo" in name]
