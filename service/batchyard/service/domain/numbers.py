"""Numbers that somebody else wrote: what counts as one, whatever JSON it came in."""


def count(value: object, most: int) -> int:
    """A whole number from 0 to `most`, which may be written as 3.0; 0 for anything else, booleans and texts too."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= most else 0
