"""The base class of all groups of settings, and types of values."""

from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from candlewick.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A strict, immutable group of settings; the text below each field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with other values, validated together; derived defaults are derived again.

        A mapping for a section replaces values in that section. Raises ConfigError.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        for name, change in changes.items():
            section = getattr(self, name, None)
            if isinstance(section, Section) and isinstance(change, dict):
                change = section.replaced(**cast("dict[str, Any]", change))
            values[name] = change
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, "),
                "correct it; `candlewick config explain KEY` says what a setting takes",
            ) from None
