"""What runs the lines of a batch."""

from typing import Protocol

from batchyard.service.engine.runners.slots import LineControl, LineSlots
from batchyard.service.jsonl.results import Answer, Failure


class LineRunner(Protocol):
    """What runs a line: the endpoint's path, and the request body as it stands in the input."""

    slots: LineSlots
    """The places of its lines; each run is in one, which its caller takes and gives back."""

    async def run(self, path: str, body: bytes, *, until: float, control: LineControl) -> Answer | Failure | None:
        """The line's answer, or why there is none; at the event loop's time `until` at the latest.

        What it waits for together with other lines is not its own time, and moves that end. `control` is asked before
        each call; None: it said no. Never raises but for cancellation.
        """
