"""As much of JSON Schema as the envelopes use, so that they can be checked without a further
dependency.
"""

from __future__ import annotations

from typing import Any

TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int, "number": (int, float),
}  # fmt: skip
KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "default", "type", "properties", "required", "additionalProperties", "items",
    "prefixItems", "minItems", "maxItems", "anyOf", "enum", "const",
}  # fmt: skip


def problems(
    value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "$"
) -> list[str]:
    """What is wrong with a value, one line each."""
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
    if "anyOf" in schema:
        tries = [problems(value, option, root, place) for option in schema["anyOf"]]
        return [] if [] in tries else [f"{place}: none of the alternatives: {tries}"]
    assert set(schema) <= KNOWN, f"teach this checker {set(schema) - KNOWN}"
    found = _wrong_kind(value, schema, place)
    if isinstance(value, dict):
        found += _in_object(value, schema, root, place)
    if isinstance(value, list):
        kinds = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        found += [
            text
            for number, item in enumerate(value)
            for text in problems(item, kinds[number], root, f"{place}[{number}]")
        ]
    return found


def _wrong_kind(value: Any, schema: dict[str, Any], place: str) -> list[str]:
    allowed = schema.get("type", [])
    kinds = [allowed] if isinstance(allowed, str) else allowed
    right = not kinds or any(
        isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind != "boolean")
        for kind in kinds
    )
    found = [] if right else [f"{place}: {value!r} is no {allowed}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is not in {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{place}: {value!r} is not {schema['const']!r}")
    return found


def _in_object(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], place: str
) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"{place}: {key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        rest = schema.get("additionalProperties", True)
        if key in properties:
            found += problems(item, properties[key], root, f"{place}.{key}")
        elif isinstance(rest, dict):
            found += problems(item, rest, root, f"{place}.{key}")
        elif properties:
            found.append(f"{place}: {key} is not in the schema")
    return found
