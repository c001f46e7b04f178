"""What the connections of one HTTP listener share."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchyard.common.http.exchange import Exchange
from batchyard.common.http.request_log import RequestLog

LINGER_SECONDS = 5.0
"""How long a client may keep a connection that has ended for the server."""


class Stoppable(Protocol):
    """A connection."""

    def stop(self) -> None:
        """Ends once its answer has left."""

    def abort(self) -> None:
        """Ends at once."""


@dataclass
class Service:
    """What the connections of one listener share: the application, its bounds, and what runs.

    A request runs from its head until its answer has left.
    """

    app: Any
    request_log: RequestLog
    max_requests: int
    head_seconds: float
    idle_seconds: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)  # while stopping: nothing is left
    connections: set[Stoppable] = field(default_factory=set)
    running: dict[Exchange, asyncio.Task[None]] = field(default_factory=dict)

    def stop(self) -> None:
        """Ends each connection once its answer has left; what nobody reads is not waited for."""
        self.idle_seconds = min(self.idle_seconds, LINGER_SECONDS)
        self.stopping.set()
        for connection in list(self.connections):
            connection.stop()
        self.note()

    def note(self) -> None:
        """Looks whether a stop has nothing more to wait for."""
        if self.stopping.is_set() and not self.connections and not self.running:
            self.quiet.set()
