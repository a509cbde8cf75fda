"""The defaults below keys that are given: a section keeps its own for the keys that nobody names.

Given a config class and nested values; gives the values with the defaults that pydantic would lose, as it makes a
section that is given in part from its class alone.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raylign.jobs.config.keys import is_collection, models_in, tags_of

REQUIRED = object()
"""In the place of a default."""


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; everything else, lists included, is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def with_defaults(model: type[BaseModel], given: dict[str, Any], default: BaseModel | None = None) -> dict[str, Any]:
    """What is given, and below it what `default` says of other keys; so on in the sections inside.

    Pydantic takes a section that is given from its class alone. So `--algorithm.clip_high 0.3` would need
    `--algorithm.name grpo` beside it, and a default like `DataConfig(shuffle=False)` would be lost with any other key.
    """
    result = dict(given)
    for name, info in model.model_fields.items():
        key = info.alias or name
        value = given.get(key)
        if isinstance(value, dict) and not is_collection(info.annotation):
            result[key] = _section(info, value, default_of(info) if default is None else getattr(default, name))
        elif isinstance(value, list):
            result[key] = [_section(info, item) if isinstance(item, dict) else item for item in value]
    if default is None:
        return result
    return tags_of(model) | default.model_dump(exclude_unset=True, by_alias=True) | result


def _section(info: FieldInfo, given: dict[str, Any], default: Any = None) -> dict[str, Any]:
    if isinstance(default, BaseModel) and all(
        given.get(key, tag) == tag for key, tag in tags_of(type(default)).items()
    ):  # else another member of a union was chosen
        return with_defaults(type(default), given, default)
    members = models_in(info.annotation)
    if len(members) > 1:
        members = [each for each in members if any(given.get(key) == tag for key, tag in tags_of(each).items())]
    return with_defaults(members[0], given) if members else given


def default_of(info: FieldInfo) -> Any:
    """A field's default, or `REQUIRED`."""
    return REQUIRED if info.is_required() else info.get_default(call_default_factory=True)
