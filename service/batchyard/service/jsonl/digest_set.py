"""A set of strings in little memory."""

import secrets
from array import array


class Digests:
    """Strings in the order in which they were added, as 64-bit digests: 15 to 34 bytes a string, where a set takes 100.

    An open hash table holds their places. Python's string hash is SipHash; the secret prefix keeps
    a file from being made of colliding names.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._digests = array("q")
        self._slots = array("I", bytes(4 * 1024))  # places, counted from 1
        self._mask = 1023
        self._most = 640

    def __len__(self) -> int:
        """How many were added, those taken out since then too."""
        return len(self._digests)

    def add(self, text: str) -> bool:
        """Adds a string; False: it was there."""
        slots, mask, digests = self._slots, self._mask, self._digests
        digest = hash(self._prefix + text) or 1
        at = digest & mask
        while place := slots[at]:
            if digests[place - 1] == digest:
                return False
            at = (at + 1) & mask
        digests.append(digest)
        slots[at] = place = len(digests)
        if place == self._most:
            self._grow()
        return True

    def take(self, text: str) -> int | None:
        """Takes a string out and returns its place, counted from 0; None where it isn't there."""
        digest = hash(self._prefix + text) or 1
        at = digest & self._mask
        while place := self._slots[at]:
            if self._digests[place - 1] == digest:
                self._digests[place - 1] = 0
                return place - 1
            at = (at + 1) & self._mask
        return None

    def holds(self, place: int) -> bool:
        """Tells whether the string that was added at a place is there still."""
        return self._digests[place] != 0

    def _grow(self) -> None:
        """Makes the table four times as large, so that at most 640 of 1024 slots are taken."""
        slots = array("I", bytes(16 * len(self._slots)))
        mask = len(slots) - 1
        for place, digest in enumerate(self._digests, 1):
            if digest:
                at = digest & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = place
        self._slots, self._mask, self._most = slots, mask, len(slots) // 1024 * 640
