"""The command's own error."""


class RunError(Exception):
    """What was asked for can't be done: a port is taken, a call failed. The text is all that the user sees.

    `advice` says what to do about it, on a line of its own.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice
