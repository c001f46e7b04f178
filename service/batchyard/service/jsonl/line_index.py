"""Which lines of its batch a shard has, by their custom_ids."""

from array import array
from collections.abc import Iterator

from batchyard.service.jsonl.digest_set import Digests


class LineIndex:
    """The lines of a shard that have no result yet, in 19 to 26 bytes a line."""

    def __init__(self) -> None:
        self._custom_ids = Digests()
        self._lines = array("I")

    def __len__(self) -> int:
        """How many lines the shard has, with results or without."""
        return len(self._lines)

    def add(self, custom_id: str, line: int) -> None:
        """Adds a line; the later ones have higher numbers. Raises ValueError where its custom_id was added before."""
        if not self._custom_ids.add(custom_id):
            raise ValueError(f"Line {line} has the custom_id of another line.")
        self._lines.append(line)

    def take(self, custom_id: str) -> int | None:
        """The number of the line with this custom_id, once; None where it isn't the shard's, or was taken before."""
        place = self._custom_ids.take(custom_id)
        return None if place is None else self._lines[place]

    def missing(self) -> Iterator[int]:
        """The numbers of the lines that were not taken, ascending."""
        return (line for place, line in enumerate(self._lines) if self._custom_ids.holds(place))
