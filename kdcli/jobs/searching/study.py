"""The study of a search: Optuna's samplers and pruners, and its journal in the folder of the runs.

A trial's parameters follow from the journal and the trial's number alone, and its scores from its
runs: a search that is killed and started again goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.core import random
from kdcli.errors import CorruptFile, UsageError, shortened
from kdcli.files import DAMAGED, write_error
from kdcli.results.search import Score, Trial, TrialState
from kdcli.runs.find import runs_in
from kdcli.runs.folder import check_out, claimed
from kdcli.typed import strict

if TYPE_CHECKING:
    import optuna

_SCORE, _ASKED, _SECONDS, _ERROR, _REPEATS = "score-", "asked", "seconds", "error", "repeats"
_MOST_REPEATS = 30  # in a row, until everything is taken to have been tried
_HASH = 64  # characters of a recipe's
MOST_BYTES = 64 * 2**20  # of a journal; a trial takes a kilobyte


def check_installed(command: str) -> None:
    """Refuses to search without the library for it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{command} needs optuna, which is not installed", hint="pip install 'kdcli[search]'"
        ) from error


@contextmanager
def in_folder(journal: Path) -> Iterator[None]:
    """Makes the folder of a search and keeps it to this process. Of a search that is refused before
    it has a run nothing stays.

    Raises:
        UsageError: another process is at work there.
    """
    folder = journal.parent
    new_folder, new_journal = not folder.exists(), not journal.exists()
    check_out(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with claimed(folder):
            yield
    except UsageError:
        if new_journal and not runs_in(folder):
            journal.unlink(missing_ok=True)
        if new_folder:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        raise


class Study:
    """Trials and their scores, kept in a journal.

    Args:
        journal: its file; made unless it is there.
        asked: what is searched, as JSON has it: a journal of another search is refused.
        seed: of what is drawn. startup: trials that are drawn before what they came to guides the
            others.
        leaves: whether a trial is to be left behind, from the study and what it came to so far.

    Raises:
        UsageError: the journal is another search's. CorruptFile: it is damaged.
    """

    def __init__(
        self,
        journal: Path,
        asked: Mapping[str, Any],
        *,
        seed: int,
        startup: int,
        leaves: Callable[[optuna.Study, optuna.trial.FrozenTrial], bool],
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._journal = journal
        self._seed = seed
        self._startup = startup
        self._leaves = leaves
        wanted = json.loads(json.dumps(dict(asked)))
        with self._reading():
            self._study = optuna.create_study(
                storage=_storage(journal),
                study_name="kd",
                direction="maximize",
                load_if_exists=True,
            )
            known = self._study.user_attrs.get(_ASKED)
        if known is None:
            self._study.set_user_attr(_ASKED, wanted)
        elif known != wanted:
            raise _other(journal, known, wanted)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A file that somebody else may have written: whatever it makes the library raise."""
        try:
            yield
        except OSError as error:
            raise write_error(error, self._journal) from error
        except Exception as error:
            raise CorruptFile(f"{self._journal} cannot be read: {error}", hint=DAMAGED) from error

    @property
    def seconds(self) -> float:
        """That the search has taken so far, all its processes together."""
        found = self._study.user_attrs.get(_SECONDS, 0.0)
        return float(found) if isinstance(found, int | float) else 0.0

    def spend(self, seconds: float) -> None:
        """Notes what it has taken so far."""
        self._study.set_user_attr(_SECONDS, seconds)

    def recall(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured when the search began, or is measured now and kept: what decides must
        not change when it goes on. As JSON has it.
        """
        known = self._study.user_attrs.get(name)
        if known is None:
            known = json.loads(json.dumps(measure()))
            self._study.set_user_attr(name, known)
        return known

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in the order in which they began."""
        return tuple(self._trial(n, found) for n, found in enumerate(self._different(), 1))

    def _different(self) -> list[optuna.trial.FrozenTrial]:
        """The trials as Optuna knows them, but those that repeat an earlier one."""
        every = self._study.get_trials(deepcopy=False)
        return [each for each in every if not each.user_attrs.get(_REPEATS)]

    def trial(self, number: int) -> Trial:
        """One of them."""
        return self._trial(number, self._found(number))

    def _found(self, number: int) -> optuna.trial.FrozenTrial:
        return self._different()[number - 1]

    def _trial(self, number: int, found: optuna.trial.FrozenTrial) -> Trial:
        try:
            scores = [
                strict(Score, value)
                for key, value in found.user_attrs.items()
                if key.startswith(_SCORE)
            ]
            error = str(found.user_attrs.get(_ERROR, ""))
            return Trial(
                number,
                dict(found.params),
                _state(found),
                tuple(sorted(scores, key=lambda score: score.epochs)),
                error,
            )
        except ValueError as error:
            raise CorruptFile(
                f"trial {number} of {self._journal} is not what kd writes: {error}",
                hint=DAMAGED,
            ) from error

    def ask(self, suggest: Callable[[optuna.Trial], None]) -> Trial | None:
        """A new trial, with parameters that follow from what the others came to; None where only
        what has been tried is suggested.
        """
        import optuna

        for _ in range(_MOST_REPEATS):
            tried = self._study.get_trials(deepcopy=False)
            # a sampler of its own for each: one with a history would draw others after a kill
            self._study.sampler = optuna.samplers.TPESampler(
                seed=random.key(self._seed, "search", len(tried)) % 2**32,
                n_startup_trials=self._startup,
            )
            trial = self._study.ask()
            suggest(trial)
            if not any(each.params == trial.params for each in tried):
                return self.trial(len(self._different()))
            trial.set_user_attr(_REPEATS, True)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None

    def report(self, number: int, score: Score, worth: float) -> None:
        """Notes what a trial came to at a rung. worth: what the sampler is to find more of."""
        import optuna

        found = self._found(number)
        trial = optuna.trial.Trial(self._study, found._trial_id)  # noqa: SLF001  there is no other way to a trial that goes on
        trial.set_user_attr(f"{_SCORE}{score.epochs}", asdict(score))
        trial.report(worth, score.epochs)

    def leaves(self, number: int) -> bool:
        """Tells whether a trial is to be left behind after what it came to."""
        return self._leaves(self._study, self._found(number))

    def end(self, number: int, state: TrialState, error: str = "") -> None:
        """Notes how a trial ended."""
        import optuna

        states = optuna.trial.TrialState
        found = self._found(number)
        if error:
            optuna.trial.Trial(self._study, found._trial_id).set_user_attr(_ERROR, error)  # noqa: SLF001  as above
        if state == "raced to the end":
            last = max(found.intermediate_values)
            self._study.tell(found.number, found.intermediate_values[last])
        else:
            kind = states.PRUNED if state == "left behind" else states.FAIL
            self._study.tell(found.number, state=kind)


def accuracy_at(found: optuna.trial.FrozenTrial, epochs: int) -> float | None:
    """What a trial came to at a rung; None where it has not reached it."""
    score = found.user_attrs.get(f"{_SCORE}{epochs}")
    value = score.get("accuracy") if isinstance(score, dict) else None
    return value if isinstance(value, float) else None


def _state(found: optuna.trial.FrozenTrial) -> TrialState:
    kinds: Mapping[str, TrialState] = {
        "COMPLETE": "raced to the end",
        "PRUNED": "left behind",
        "FAIL": "failed",
    }
    return kinds.get(found.state.name, "going on")


def _storage(journal: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Ours(JournalFileOpenLock):  # type: ignore[misc]
        """The folder is this process's already (kdcli.runs.folder.claimed)."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    if journal.exists():
        if journal.stat().st_size > MOST_BYTES:
            raise ValueError(f"{journal.stat().st_size:,} bytes are more than a journal has")
        content = journal.read_bytes()
        if content and not content.endswith(b"\n"):  # a kill cut its last line off
            journal.write_bytes(content[: content.rfind(b"\n") + 1])
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=Ours(str(journal))))


def _other(journal: Path, known: Any, wanted: Mapping[str, Any]) -> UsageError:
    """Says in what a journal's search is another one."""
    differ = [
        key
        for key, value in wanted.items()
        if not isinstance(known, dict) or known.get(key) != value
    ]
    first = differ[0] if differ else "question"
    there = known.get(first) if isinstance(known, dict) else None
    hashed = isinstance(there, str) and len(there) == _HASH
    shown = "another one" if hashed or there is None else shortened(json.dumps(there), 200)
    return UsageError(
        f"{journal.parent} holds another search: its {first} is {shown}",
        hint="another folder with --out, or the same question again to go on with that search",
    )
