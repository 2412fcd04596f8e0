"""`kd check --data`: every file of a dataset opened, and all that is wrong told at once."""

from __future__ import annotations

from kdcli import catalog
from kdcli.data.text import Text
from kdcli.errors import Interrupted, KdError, Terminated
from kdcli.jobs.build.datasets import open_source
from kdcli.recipe.schema import DataSection
from kdcli.results.data_report import DataProblem, DataReport


def check_data(data: DataSection) -> DataReport:
    """Reads all of a dataset. What a run would refuse at its start, or stumble over later, is in
    the report, and nothing is raised for it.
    """
    path = getattr(data, "path", None)
    try:
        found = catalog.entry("dataset", data.name)
        if found.factory is None:
            module = catalog.load(found)
            if hasattr(module, "examine"):  # of files that are otherwise read as they are needed
                report: DataReport = module.examine(module.Options(**data.options), data.name)
                return report
        source = open_source(data)
    except (Interrupted, Terminated):
        raise
    except KdError as error:
        problem = DataProblem("dataset", error.message, error.hint or f"kd datasets {data.name}")
        return DataReport(data.name, path, 0, 0, 0, 0, (problem,))
    parts = (
        source.parts
        if isinstance(source, Text)
        else (len(source.y_train) - source.held, source.held, len(source.y_test))
    )
    return DataReport(data.name, path, len(source.class_names), *parts, notes=source.notes)
