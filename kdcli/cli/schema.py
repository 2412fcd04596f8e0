"""`kd schema`: what editors complete and check recipes with."""

from __future__ import annotations

from kdcli.cli.env import Environment
from kdcli.cli.envelope import Outcome

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
