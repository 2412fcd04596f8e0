"""MLflow: a local folder, mlruns/ beside the runs, unless MLFLOW_TRACKING_URI says otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from kdcli.jobs.events import Event
from kdcli.jobs.train.trackers.numbers import Numbers, Tracked, final
from kdcli.results.run import RunResult

PACKAGE = "mlflow"
EXPERIMENT = "kd"
FOLDER = "mlruns"
_KEY = "kd.run"  # the tag by which a run that goes on finds what it has written
_AT_ONCE = 100  # parameters, and
_LONGEST = 500  # characters of one, that every server takes


class Tracker:
    """Hands what it hears to a run of MLflow."""

    name = "mlflow"

    def __init__(self, run: Tracked) -> None:
        given = os.environ
        given.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves without being asked
        # without a database, which the lean package does not bring, it wants to be told so
        given.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        local = (Path(run.runs) / FOLDER).resolve().as_uri()
        self._client = MlflowClient(tracking_uri=given.get("MLFLOW_TRACKING_URI") or local)
        self._numbers = Numbers()
        name = given.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        found = self._client.search_runs([number], filter_string=f"tags.`{_KEY}` = '{run.key}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {_KEY: run.key}
        self._id = self._client.create_run(number, run_name=run.name, tags=tags).info.run_id
        self._settings(run.settings)

    def _settings(self, settings: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        every = [Param(key, str(value)[:_LONGEST]) for key, value in settings.items()]
        for at in range(0, len(every), _AT_ONCE):
            self._client.log_batch(self._id, params=every[at : at + _AT_ONCE])

    def _log(self, epoch: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def __call__(self, event: Event) -> None:
        found = self._numbers.of(event)
        if found is not None:
            self._log(*found)

    def finish(self, result: RunResult) -> None:
        """Final numbers, at the last epoch."""
        self._log(result.epochs, final(result))

    def close(self, *, finished: bool) -> None:
        """Says how the run ended."""
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")
