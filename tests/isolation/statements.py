"""Which statements the registry runs for a tenant, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event


@contextmanager
def for_tenants() -> Iterator[list[str]]:
    """Fills the list with the texts of those that name a tenant, in their order."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *more: Any) -> None:
        if "tenant = ?" in statement:
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)
