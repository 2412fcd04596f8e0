"""`kd schema`: what editors complete and check recipes with."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from kdcli.cli.console import Environment
from kdcli.cli.output.envelope import VERSION, ErrorItem, Outcome, Status
from kdcli.errors import Exit
from kdcli.results.measures import GateResult

NAME = "schema"
EXAMPLES = """
kd schema > recipe.schema.json
kd schema --json -q | jq '.data.title'
"""


def run(env: Environment) -> Outcome:
    """JSON Schema of recipes, for editors.

    A recipe whose first line is `#:schema ./recipe.schema.json` gets completion and checks in Taplo
    and VS Code.
    """
    import json

    from kdcli.recipe.json_schema import schema

    document = schema()
    env.write(json.dumps(document, indent=2, ensure_ascii=not env.unicode))
    return Outcome(document)


DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Nullable(GenerateJsonSchema):
    """JSON has no word for NaN and infinity: any number that is not an integer may be null."""

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().float_schema(schema), "type": ["number", "null"]}


def data_types() -> dict[str, Any]:
    """The type of `data` by command; a group's commands are "GROUP COMMAND"."""
    from kdcli.cli.commands import check, datasets, methods, models, recipes, report
    from kdcli.jobs.machine_checks import Check
    from kdcli.report.tables.compare import Comparison
    from kdcli.results import (
        export,
        gap,
        imported,
        logits,
        measures,
        plan,
        predictions,
        run,
        search,
        sweep,
    )

    return {
        "train-teacher": run.RunResult | None,
        "distill": run.RunResult | None,
        "resume": run.RunResult,
        "sweep": sweep.SweepResult,
        "search": search.SearchResult,
        "find-teacher": search.FoundTeacher,
        "evaluate": measures.EvaluateResult,
        "analyze-gap": gap.GapReport,
        "predict": predictions.PredictResult,
        "export": export.ExportResult,
        "compare": Comparison,
        "table": sweep.SweepTable,
        "methods": (
            tuple[methods.MethodItem, ...] | tuple[methods.MethodRelative, ...] | methods.MethodCard
        ),
        "models": tuple[models.ModelItem, ...] | models.ModelDetails,
        "datasets": tuple[datasets.DatasetItem, ...] | datasets.DatasetCard,
        "recipes": tuple[recipes.RecipeItem, ...],
        "recipes ls": tuple[recipes.RecipeItem, ...],
        "recipes show": recipes.RecipeText,
        "recipes cp": recipes.RecipeCopy,
        "check": tuple[check.CheckedRecipe, ...],
        "schema": dict[str, Any],
        "report": report.ReportFiles,
        "cache": logits.CacheResult,
        "plan": plan.Plan | plan.SweepPlan,
        "import": imported.ImportResult,
        "doctor": tuple[Check, ...],
    }


def schema_of(command: str) -> dict[str, Any]:
    """The schema of one command's envelope. `data` is null where the command failed."""
    kinds = {
        "data": data_types()[command] | None,
        "gates": tuple[GateResult, ...],
        "errors": tuple[ErrorItem, ...],
    }
    adapters = [(name, "serialization", TypeAdapter(kind)) for name, kind in kinds.items()]
    parts, shared = TypeAdapter.json_schemas(adapters, schema_generator=_Nullable)  # type: ignore[arg-type]
    properties: dict[str, Any] = {
        "kd": {
            "const": VERSION,
            "description": "Version of the envelope; keys are only ever added.",
        },
        "command": {"const": command},
        "status": {"enum": list(get_args(Status))},
        "exit_code": {"enum": [int(code) for code in Exit]},
        "data": parts["data", "serialization"],
        "gates": parts["gates", "serialization"],
        "errors": parts["errors", "serialization"],
        "warnings": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "$schema": DIALECT,
        "title": f"kd {command} --json",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        **({"$defs": shared["$defs"]} if "$defs" in shared else {}),
    }


def envelope_schemas() -> dict[str, str]:
    """File name and text of every schema."""
    return {
        f"{command.replace(' ', '-')}.schema.json": json.dumps(
            schema_of(command), indent=2, ensure_ascii=False
        )
        + "\n"
        for command in data_types()
    }
