"""The JSON Schema accepts every shipped recipe and underlines what kd would refuse."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from kdcli.recipe import shipped
from kdcli.recipe.json_schema import schema

SCHEMA = schema()
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}


def accepts(rule, value) -> bool:
    """Whether a value conforms, for the keywords that our schema uses about names, keys and
    types.
    """
    if "$ref" in rule:
        return accepts(SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")], value)
    if "anyOf" in rule and not any(accepts(choice, value) for choice in rule["anyOf"]):
        return False
    if "not" in rule and accepts(rule["not"], value):
        return False
    wanted = TYPES.get(rule.get("type"), object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (int, (int, float))):
        return False
    if value not in rule.get("enum", [value]) or value != rule.get("const", value):
        return False
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        return False
    if isinstance(value, dict):
        properties = rule.get("properties", {})
        known = rule.get("additionalProperties", True) or value.keys() <= properties.keys()
        inner = all(
            accepts(properties[key], item) for key, item in value.items() if key in properties
        )
        return known and inner and set(rule.get("required", ())) <= value.keys()
    return (
        all(accepts(rule.get("items", {}), item) for item in value)
        if isinstance(value, list)
        else True
    )


RECIPES = [item for item in shipped.ls() if item.kind != "sweep"]


@pytest.mark.parametrize("item", [pytest.param(item, id=item.name) for item in RECIPES])
def test_accepts_every_shipped_recipe(item):
    assert accepts(SCHEMA, tomllib.loads(item.path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("[method]\nname = 'skd'\nalign = 'unit'", True),
        ("[method]\nname = 'kd'\nalign = 'unit'", False),
        ("[method]\nname = './mine.py'\nanything = 1", True),
        ("[method]\nname = 'skdd'", False),
        ("[method]\ntemperature = 2", True),
        ("[method]\ntemprature = 2", False),
        ("[scheduler]\nname = 'cosine'", False),
        ("[schedule]\nname = 'multistep'\nmilestones = [1, 2]", True),
        ("[schedule]\nname = 'cosine'\nmilestones = [1, 2]", False),
        ("[optim]\nname = 'adam'", False),
        ("[train]\nepochs = '3'", False),
        ("[data]\nname = 'digits'\naugment = {flip = true}", True),
        ("[data]\nname = 'digits'\naugment = {flipp = true}", False),
        ("[teacher]\ncheckpoint = 'a'", True),
        ("[[teacher]]\ncheckpoint = 'a'\n[[teacher]]\nrecipe = 'b'", True),
        ("[model]\nname = 'cnn-large'", True),
        ("[model]\nname = 'cnn-large'\n[student]\nname = 'cnn-small'", False),
        ("extends = 'base.toml'", True),
    ],
)
def test_tells_good_from_bad(text, fine):
    assert accepts(SCHEMA, tomllib.loads(text)) is fine


def test_every_key_is_described():
    for kind in ("distill", "train-teacher"):
        for section in ("data", "method", "optim", "schedule"):
            for branch in SCHEMA["$defs"][section]["anyOf"]:
                assert all("description" in found for found in branch["properties"].values()), (
                    kind,
                    section,
                )


def test_the_copy_in_docs_is_fresh(root):
    copy = json.loads((root / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert copy == SCHEMA, "kd schema > docs/recipe.schema.json"
