"""What the tests of odd answers share."""

from typing import Any

from tests.upstream.faults import to
from tests.upstream.quirks import Quirks

CANCEL = to("POST", "/cancel")
DELETE = to("DELETE", "/files/[^/]+")
STUCK = Quirks(auto=False)
NO_BATCH: list[Any] = [{}, [], b"<html>ok</html>", b"", {"id": "file-1", "object": "file", "status": "processed"}]
