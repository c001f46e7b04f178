"""The command's own error."""


class RunError(Exception):
    """A server can't run here and now: a port or a data directory is taken. The text is all that the user sees."""
