"""How errors about a field are worded."""

from collections.abc import Collection

from batchyard.service.errors import InvalidArgument


def check_one_of(given: str, param: str, supported: Collection[str]) -> None:
    if given not in supported:
        *most, last = (f"'{value}'" for value in supported)
        listed = f"{', '.join(most)}, and {last}" if most else last
        message = f"Invalid value: '{given}'. Supported values are: {listed}."
        raise InvalidArgument(message, param=param, code="invalid_value")


def unknown(name: str) -> InvalidArgument:
    """The refusal of a member that nobody knows."""
    return InvalidArgument(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def within(value: int, param: str, least: int, most: int) -> int:
    """The value. Raises InvalidArgument for one below `least` or above `most`."""
    if value < least:
        side, code, bound = "below minimum", "integer_below_min_value", f">= {least}"
    elif value > most:
        side, code, bound = "above maximum", "integer_above_max_value", f"<= {most}"
    else:
        return value
    message = f"Invalid '{param}': integer {side} value. Expected a value {bound}, but got {value} instead."
    raise InvalidArgument(message, param=param, code=code)


def missing(name: str) -> InvalidArgument:
    """The refusal of a request without a member that it must have."""
    return InvalidArgument(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def too_long(param: str, most: int, length: int, what: str) -> InvalidArgument:
    """The refusal of a text of too many characters."""
    return InvalidArgument(
        f"Invalid '{param}': string too long. Expected {what} with maximum length {most}, "
        f"but got a string with length {length} instead.",
        param=param,
        code="string_above_max_length",
    )
