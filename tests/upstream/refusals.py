"""What both providers refuse in a request, in OpenAI's words; how an error looks on the wire is each one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

DAY = 86400
_KINDS = {str: "a string", list: "an array", bool: "a boolean", int: "an integer", float: "a decimal"}


class Refusal(Exception):
    """An error to answer with."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = headers or {}


def invalid(param: str, code: str, message: str) -> Refusal:
    """What is wrong with a parameter's value."""
    return Refusal(400, message, param=param, code=code)


def missing(name: str) -> Refusal:
    return invalid(name, "missing_required_parameter", f"Missing required parameter: '{name}'.")


def wrong_type(name: str, expected: str, value: Any) -> Refusal:
    got = "null" if value is None else _KINDS.get(type(value), "an object")
    return invalid(name, "invalid_type", f"Invalid type for '{name}': expected {expected}, but got {got} instead.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if not isinstance(value, str):
        raise wrong_type(name, "one of its values", value)
    if value not in choices:
        quoted = [f"'{choice}'" for choice in choices]
        known = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"
        raise invalid(name, "invalid_value", f"Invalid value: '{value}'. Supported values are: {known}.")


def check_range(name: str, value: int, least: int, most: int) -> None:
    if value < least:
        text = f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        raise invalid(name, "integer_below_min_value", text)
    if value > most:
        text = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        raise invalid(name, "integer_above_max_value", text)


def check_metadata(metadata: Any) -> None:
    """At most 16 texts of at most 512 characters, under names of at most 64."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise wrong_type("metadata", "an object", metadata)
    if len(metadata) > 16:
        text = "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got"
        code = "object_above_max_properties"
        raise invalid("metadata", code, f"{text} an object with {len(metadata)} properties instead.")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise wrong_type(f"metadata.{key}", "a string", value)
        _check_length(f"metadata.{key}", key, 64)
        _check_length(f"metadata.{key}", value, 512)


def check_life(name: str, life: Any, least: int, most: int) -> int | None:
    """An expires_after, in seconds."""
    if life is None:
        return None
    if not isinstance(life, dict):
        raise wrong_type(name, "an object", life)
    for member in ("anchor", "seconds"):
        if member not in life:
            raise missing(f"{name}.{member}")
    check_choice(f"{name}.anchor", life["anchor"], ["created_at"])
    seconds = life["seconds"]
    if type(seconds) is not int:
        raise wrong_type(f"{name}.seconds", "an integer", seconds)
    check_range(f"{name}.seconds", seconds, least, most)
    return seconds


def check_create(body: Any, endpoints: Sequence[str], optional: Sequence[str] = ()) -> Json:
    """The members of a request for a batch, but for its completion_window and expiry."""
    if not isinstance(body, dict):
        raise Refusal(400, "We could not parse the JSON body of your request.")
    required = ("input_file_id", "endpoint", "completion_window")
    for name in required:
        if name not in body:
            raise missing(name)
    for name in body:
        if name not in {*required, "metadata", "output_expires_after", *optional}:
            raise invalid(name, "unknown_parameter", f"Unknown parameter: '{name}'.")
    if not isinstance(body["input_file_id"], str):
        raise wrong_type("input_file_id", "a string", body["input_file_id"])
    check_choice("endpoint", body["endpoint"], endpoints)
    check_metadata(body.get("metadata"))
    return body


def limit_of(query: Mapping[str, str], usual: int, most: int) -> int:
    text = query.get("limit", str(usual))
    try:
        limit = int(text)
    except ValueError:
        raise wrong_type("limit", "an integer", text) from None
    check_range("limit", limit, 1, most)
    return limit


def _check_length(name: str, value: str, most: int) -> None:
    if len(value) > most:
        text = f"Invalid '{name}': string too long. Expected a string with maximum length {most}, but got a string"
        raise invalid(name, "string_above_max_length", f"{text} with length {len(value)} instead.")
