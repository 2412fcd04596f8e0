"""`kd search`: the smallest student within a budget of accuracy, latency, size and time."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import formatting
from kdcli.data.text import Text
from kdcli.engine.hardware import choose_device
from kdcli.errors import CorruptFile, KdError
from kdcli.files import DAMAGED
from kdcli.jobs.build import kept
from kdcli.jobs.build.datasets import open_source
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.events import Listener
from kdcli.jobs.listeners import Audience
from kdcli.jobs.searching import candidates as networks
from kdcli.jobs.searching.race import Race, Steps, rungs, score_of
from kdcli.jobs.searching.space import (
    RATES,
    Base,
    Space,
    base_of,
    check_methods,
    is_warm,
    label_of,
    space_of,
    values_of,
)
from kdcli.jobs.searching.study import Study, accuracy_at, check_installed, in_folder
from kdcli.jobs.sweep.executor import HERE, Jobs, Place, open_executor
from kdcli.jobs.sweep.schedule import Task, with_teachers
from kdcli.recipe.resolve import Flag, Resolved, teacher_recipe
from kdcli.recipe.schema import DistillRecipe, GatesSection, TrainTeacherRecipe
from kdcli.recipe.writing import recipe_hash
from kdcli.report.tables.search import write_search
from kdcli.results.search import Candidate, Score, SearchResult, Trial
from kdcli.runs.find import finished_runs
from kdcli.runs.read import Run
from kdcli.trust import trusting

if TYPE_CHECKING:
    import optuna

FACTOR = 3  # of each rung one trial in so many goes on, and so many times as long
TRIALS = 24
JOURNAL = "search.journal"


class Students:
    """The plan of a search for a student (kdcli.jobs.searching.race.Plan).

    Args:
        base: of all recipes. candidates: within the budget. runs: trials in all, which ask their
            teacher for the same answers. asked: the accuracy that is enough, if any is.
    """

    def __init__(
        self,
        base: Base,
        space: Space,
        candidates: Sequence[Candidate],
        at: tuple[int, ...],
        *,
        runs: int,
        asked: float | None,
        command: str,
    ) -> None:
        self.base = base
        self.asked = asked
        self.space = space
        self.candidates = {each.name: each for each in candidates}
        self.rungs = at
        self.runs = runs
        self.command = command

    def suggest(self, trial: optuna.Trial) -> None:
        trial.suggest_categorical("student", list(self.candidates))
        method = str(trial.suggest_categorical("method", list(self.space.methods)))
        if self.space.temperatures and is_warm(method):
            trial.suggest_categorical("temperature", list(self.space.temperatures))
        if self.space.rate is not None:
            trial.suggest_float("lr", self.space.rate / RATES, self.space.rate * RATES, log=True)

    def label(self, trial: Trial) -> str:
        return label_of(trial)

    def resolved(self, trial: Trial) -> Resolved:
        """A trial's recipe."""
        return self.base.resolve(values_of(trial))

    def task(self, trial: Trial, until: int | None) -> Task:
        """A trial's run, up to an epoch or to its end."""
        resolved = self.resolved(trial)
        key = recipe_hash(resolved.recipe)
        return Task(key, self.label(trial), resolved, self.command, self.runs, until=until)

    def steps(self, trial: Trial, rung: int) -> Steps:
        """One task: the trial's run, up to the rung."""
        self.check_known(trial)
        epoch = self.rungs[rung]
        ended = yield self.task(trial, epoch)
        assert ended.run is not None
        return score_of(ended.run, epoch)

    def check_known(self, trial: Trial) -> None:
        """Refuses a trial of a journal whose parameters are none of this search's.

        Raises:
            CorruptFile: it names another network or method, or lacks one.
        """
        name, method = trial.parameters.get("student"), trial.parameters.get("method")
        if name not in self.candidates or method not in self.space.methods:
            raise CorruptFile(
                f"trial {trial.number} of the journal is none of this search", hint=DAMAGED
            )

    def worth(self, trial: Trial, score: Score) -> float:
        """Its accuracy; above 1 where that is enough, the more the smaller it is."""
        if self.asked is None or score.accuracy < self.asked:
            return score.accuracy
        sizes = {name: each.parameters for name, each in self.candidates.items()}
        return 2 - sizes[str(trial.parameters["student"])] / max(sizes.values())

    def leaves(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Tells whether a trial is left behind: a smaller student has come to the end as accurate
        as is asked for, or this one is not among the best third of the students that are no larger.
        No small student is measured against a large one, so what is left is a frontier.
        """
        step, size = trial.last_step, self._size(trial)
        assert step is not None
        others = [each for each in study.get_trials(deepcopy=False) if self._size(each) <= size]
        asked, end = self.asked, self.rungs[-1]
        if asked is not None and any(
            self._size(each) < size and (accuracy_at(each, end) or 0.0) >= asked for each in others
        ):
            return True
        known = [found for each in others if (found := accuracy_at(each, step)) is not None]
        own = accuracy_at(trial, step) or 0.0
        return sum(each > own for each in known) >= max(len(known) // FACTOR, 1)

    def _size(self, trial: optuna.trial.FrozenTrial) -> int:
        found = self.candidates.get(str(trial.params.get("student")))
        return found.parameters if found is not None else 0


# ---- what is taken -------------------------------------------------------------------------------


def choose(
    trials: Sequence[Trial], candidates: Mapping[str, Candidate], gates: GatesSection
) -> tuple[Trial, bool]:
    """The trial to take, and whether it meets the accuracy that is asked for: of those that came
    furthest the smallest student that does, else the most accurate.

    With `gates.confident` the lower end of the interval has to meet it.

    Raises:
        KdError: no trial came to anything.
    """
    scored = [(each, each.last) for each in trials if each.last is not None]
    if not scored:
        raise KdError("no trial came to a rung in the time that it had", hint="more --time")
    furthest = max(score.epochs for _, score in scored)
    known = [(each, score) for each, score in scored if score.epochs == furthest]

    def size(trial: Trial) -> int:
        return candidates[str(trial.parameters["student"])].parameters

    def surely(score: Score) -> float:
        return score.interval.low if gates.confident else score.accuracy

    limit = gates.min_accuracy
    meeting = [item for item in known if limit is None or surely(item[1]) >= limit]
    if limit is None or not meeting:
        found = max(known, key=lambda item: (item[1].accuracy, -size(item[0]), -item[0].number))
        return found[0], bool(meeting)
    return min(meeting, key=lambda item: (size(item[0]), -item[1].accuracy, item[0].number))[
        0
    ], True


def frontier_of(trials: Sequence[Trial], candidates: Mapping[str, Candidate]) -> tuple[int, ...]:
    """Trials that came furthest and that no other beats in both size and accuracy, the smallest
    student first.
    """
    furthest = max((each.last.epochs for each in trials if each.last), default=0)
    known = [
        (candidates[str(each.parameters["student"])].parameters, -each.last.accuracy, each.number)
        for each in trials
        if each.last is not None and each.last.epochs == furthest
    ]
    found: list[int] = []
    best = 1.0
    for _, worse, number in sorted(known):
        if worse < best:
            best = worse
            found.append(number)
    return tuple(found)


# ---- the job -------------------------------------------------------------------------------------


def search(
    recipe: str | Path | None = None,
    *,
    out: str | Path = "runs",
    candidates: Sequence[str] = (),
    methods: Sequence[str] = (),
    temperatures: Sequence[float] = (),
    trials: int = TRIALS,
    seconds: float | None = None,
    jobs: Jobs = 1,
    place: Place = HERE,
    sets: Sequence[str] = (),
    flags: Sequence[Flag] = (),
    environ: Mapping[str, str] | None = None,
    listeners: Sequence[Listener] = (),
    command: str = "",
    trust: bool = False,
    told: Callable[[str], object] = lambda _text: None,
) -> SearchResult:
    """Searches for a student: latency first, then a race of students, methods, temperatures and
    learning rates on held-out images; the one that is taken is trained to its end and measured on
    the test split, once.

    Args:
        recipe: a distill recipe, whose student, method, temperature and learning rate are tried
            besides; without one, what the teacher's file says.
        out: folder of the runs and of the search, one for each search.
        candidates: names of networks, and patterns such as "timm/*tiny*"; the zoo's that are
            smaller than the teacher unless given.
        methods, temperatures: to choose from. What `sets` and `flags` set is not searched.
        trials, seconds: how many there are, and after how long none begins or goes on.
        jobs, place: as for `run_sweep`.
        sets, flags, environ: as for `kdcli.recipe.resolve.resolve`. gates.min_accuracy,
            gates.max_latency_ms and gates.max_parameters of the recipe are the budget.
        told: hears what is decided, in sentences.
        trust: as for `distill`.

    Raises:
        UsageError: nothing meets the budget, nothing is held out, or the folder holds another
            search. Interrupted, Terminated: the same command goes on.
    """
    check_installed("kd search")
    base, resolved = base_of(
        recipe, sets, flags, environ if environ is not None else {}, any_student=True
    )
    space = space_of(resolved, candidates, methods, temperatures)
    check_methods(space)
    folder = Path(out)
    again = command or "kd search"
    own = [*space.patterns, *space.methods]
    with (
        in_folder(folder / JOURNAL),
        trusting(own),
        trusted_recipe(resolved, trust=trust),
        kept.between_runs(),
    ):
        found = _Search(base, resolved, space, folder, trials, again, told)
        heard = (Audience.of(listeners),) if listeners else ()
        return found.run(heard, seconds, jobs, place)


class _Search:
    """A search in its folder."""

    def __init__(
        self,
        base: Base,
        resolved: Resolved,
        space: Space,
        folder: Path,
        limit: int,
        command: str,
        told: Callable[[str], object],
    ) -> None:
        recipe = resolved.recipe
        assert isinstance(recipe, DistillRecipe)
        self.recipe, self.resolved, self.space = recipe, resolved, space
        self.folder, self.limit, self.command, self.told = folder, limit, command, told
        self.base = base
        self.notes: list[str] = []
        if base.held_out is not None:
            self._note(f"{base.held_out:.0%} of the training images are held out to select on")
        self.plan = Students(
            base,
            space,
            (),
            rungs(recipe.train.epochs, FACTOR),
            runs=limit,
            asked=recipe.gates.min_accuracy,
            command=command,
        )
        self.study = Study(
            folder / JOURNAL,
            self._question(),
            seed=recipe.seed,
            startup=min(10, max(limit // 3, 1)),
            leaves=self.plan.leaves,
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.told(text)

    def _question(self) -> dict[str, Any]:
        """What makes it this search and no other: all but how much time it has."""
        gates = self.recipe.gates
        return {
            "command": "search",
            "candidates": list(self.space.patterns),
            "methods": list(self.space.methods),
            "temperatures": list(self.space.temperatures),
            "learning rate": self.space.rate,
            "budget": {
                name: getattr(gates, name)
                for name in ("min_accuracy", "max_latency_ms", "max_parameters", "confident")
            },
            "recipe": recipe_hash(self.recipe),
        }

    def run(
        self, listeners: Sequence[Listener], seconds: float | None, jobs: Jobs, place: Place
    ) -> SearchResult:
        inside, outside = self._candidates()
        self.plan.candidates = {each.name: each for each in inside}
        race = Race(
            self.study,
            self.plan,
            listeners,
            limit=self.limit,
            seconds=seconds,
            command=self.command,
        )
        first = with_teachers(
            [Task("", "", self.resolved, self.command)], finished_runs(self.folder)
        )[:-1]

        def crew() -> Any:
            return open_executor(jobs, self.limit, self.folder, listeners, self.resolved, place)

        race.run(crew(), first)
        if race.late:
            self._note("the time was up: with more of it the same command goes on")
        trials = self.study.trials
        chosen, met = choose(trials, self.plan.candidates, self.recipe.gates)
        run = race.finish(crew(), self.plan.task(chosen, None))
        summary = Run.load(run).summary
        assert summary is not None
        test = summary.test
        result = SearchResult(
            folder=str(self.folder),
            data=self.recipe.data.name,
            teacher=", ".join(
                str(each.checkpoint or each.recipe or each.name or each.logits)
                for each in self.recipe.teacher
            ),
            candidates=tuple(inside),
            left_out=tuple(outside),
            rungs=self.plan.rungs,
            trials=trials,
            frontier=frontier_of(trials, self.plan.candidates),
            chosen=chosen.number,
            met=met,
            run=run,
            test_accuracy=test.accuracy,
            test_n=test.n,
            gates=summary.gates,
            again=shlex.join(["kd", "distill", f"{run}/recipe.toml"]),
            seconds=self.study.seconds,
            page=str(self.folder / "search.md"),
            notes=tuple(self.notes),
        )
        write_search(result, self.folder)
        return result

    def _candidates(self) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates within the budget, and the others, as they were measured when the search
        began.
        """
        kept = self.study.recall(
            "networks", lambda: [networks.plain(each) for each in self._look()]
        )
        try:
            inside, outside = (networks.read(each) for each in kept)
        except ValueError as error:
            raise CorruptFile(
                f"{self.folder / JOURNAL} is not what kd writes: {error}", hint=DAMAGED
            ) from error
        timed = [each for each in inside if each.latency_ms is not None]
        if timed:
            times = [each.latency_ms or 0.0 for each in timed]
            ends = [f"{end:.2f}" for end in (min(times), max(times))]
            self.told(
                f"{formatting.plural(len(inside), 'candidate', ' ')}: "
                f"{' to '.join(dict.fromkeys(ends))} ms an image"
            )
        return inside, outside

    def _look(self) -> tuple[list[Candidate], list[Candidate]]:
        recipe, gates = self.recipe, self.recipe.gates
        source = open_source(recipe.data)
        assert not isinstance(source, Text)
        shape, classes = source.preprocessing.input_shape, len(source.class_names)
        known = networks.sized(self.space.patterns, self._teacher(), classes, shape)
        small, outside = networks.within(known, gates)
        if not self.space.patterns:
            near = networks.spread(small)
            if len(near) < len(small):
                self._note(
                    f"{len(near)} of {len(small)} networks of the zoo, spread over their sizes; "
                    "--candidates names others"
                )
            outside += [each for each in small if each not in near]
            small = near
        device = choose_device(recipe.runtime.device).value
        inside, slow = networks.within(networks.timed(small, classes, shape, device), gates)
        return inside, [*outside, *slow]

    def _teacher(self) -> str | None:
        """What the only teacher's size follows from."""
        if len(self.recipe.teacher) != 1:
            return None
        found = self.recipe.teacher[0]
        if found.recipe is not None:
            recipe = teacher_recipe(found, self.recipe)[0].recipe
            assert isinstance(recipe, TrainTeacherRecipe)
            return recipe.model.name
        return found.checkpoint or found.name
