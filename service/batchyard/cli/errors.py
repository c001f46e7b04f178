"""The command's own error."""


class RunError(Exception):
    """What was asked for can't be done: a port is taken, a call failed. The text is all that the user sees."""
