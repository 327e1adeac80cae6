"""The tree of settings as a JSON schema, and as sections with words for each type and default.

Editors complete and check a configuration with the schema. It accepts whatever the loader accepts in YAML and
JSON. No setting is required, because the file that a configuration extends may have it. Relations between settings
are checked by the loader alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from candlewick.config.run import RunConfig

Schema = dict[str, Any]

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True, slots=True)
class SectionSchema:
    """A section, or one kind of a section."""

    name: str
    """`optimizer`; `data.mixture[]` for each entry of a list; empty for the top of the tree."""
    kind: str | None
    """`algorithm: muon`, if the section has several kinds."""
    meaning: str
    settings: dict[str, Schema]
    """Schemas of the settings, with `required` added."""


def json_schema() -> Schema:
    """Return the schema of a configuration file (JSON schema, draft 2020-12)."""
    schema = _tree_schema()
    for definition in schema["$defs"].values():
        if _discriminator(definition) is not None:
            definition.pop("required", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Candlewick configuration"}
    return {**head, **schema}


def _tree_schema() -> Schema:
    schema = cast(Schema, _strip_pydantic(RunConfig.model_json_schema()))
    parent: Schema = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    parent["description"] = "A file or profile whose settings this file starts from."
    schema["properties"] = {"extends": parent, **schema["properties"]}
    return schema


def _strip_pydantic(node: object) -> object:
    """Return a schema without titles, discriminators and the defaults of sections."""
    if isinstance(node, list):
        return [_strip_pydantic(item) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast(Schema, node)
    return {
        "anyOf" if name == "oneOf" else name: _strip_pydantic(value)
        for name, value in fields.items()
        if not (name == "title" and isinstance(value, str))
        and name != "discriminator"
        and not (name == "default" and "$ref" in str(fields) and isinstance(value, dict))
    }


def sections() -> Iterator[SectionSchema]:
    """Yield every section, before the sections inside it."""
    schema = _tree_schema()
    return _sections("", schema, schema["$defs"])


def _sections(name: str, node: Schema, definitions: Schema) -> Iterator[SectionSchema]:
    fields, required = node["properties"], node.get("required", ())
    settings = {key: {**field, "required": key in required} for key, field in fields.items()}
    yield SectionSchema(name, _discriminator(node), " ".join(node.get("description", "").split()), settings)
    for key, field in fields.items():
        inner = f"{name}.{key}".removeprefix(".") + ("[]" if field.get("type") == "array" else "")
        for reference in references(field):
            yield from _sections(inner, definitions[reference], definitions)


def _discriminator(node: Schema) -> str | None:
    consts = ((name, field["const"]) for name, field in node["properties"].items() if "const" in field)
    return next((f"{name}: {value}" for name, value in consts), None)


def references(field: Schema) -> Iterator[str]:
    """Yield the names of the sections that a setting can hold."""
    if "$ref" in field:
        yield field["$ref"].rsplit("/", 1)[1]
    for inner in (*field.get("anyOf", []), *([field["items"]] if "items" in field else [])):
        yield from references(inner)


def is_section(field: Schema) -> bool:
    """Return whether a setting is always one section, and neither null nor a list."""
    return describe_type(field) == "section"


def describe_type(field: Schema) -> str:
    """Return the type of a setting in words, with its limits."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(describe_type, field["anyOf"])))
    if "$ref" in field:
        return "section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        inner = describe_type(field["items"])
        return "list of sections" if inner == "section" else f"list of {inner}"
    if field["type"] == "object":
        names = describe_type(field["propertyNames"]) if "propertyNames" in field else "names"
        return f"{names}, each: {describe_type(field['additionalProperties'])}"
    limits = [f"{sign} {field[name]:,}".removesuffix(".0") for name, sign in _SIGNS.items() if name in field]
    word = "path" if field.get("format") == "path" else _TYPES[field["type"]]
    return word + (" " + ", ".join(limits) if limits else "")


def describe_default(field: Schema) -> str:
    """Return the default of a setting as YAML writes it, or a word for it."""
    if field.get("required"):
        return "must be set"
    if "default" not in field:
        return "on" if any(references(field)) else "derived"
    value = field["default"]
    return f"`{json.dumps(value) if isinstance(value, bool | None) else value}`"
