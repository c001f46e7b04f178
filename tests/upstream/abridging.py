"""Lines of a large upload in a short form, so that a fake can answer each of them and keeps little."""

import json
from hashlib import sha256


class Abridged:
    """Takes a file in pieces; `lines` has each whole line of it with a hash of itself for a prompt."""

    def __init__(self) -> None:
        self.lines = bytearray()
        self._rest = b""

    def add(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for raw in whole:
            self.lines += _short(raw)

    def end(self) -> None:
        """Takes what came after the last newline."""
        self.add(b"\n" if self._rest else b"")


def _short(raw: bytes) -> bytes:
    if not raw.strip():
        return b"\n"
    line = json.loads(raw)
    prompt = [{"role": "user", "content": sha256(raw).hexdigest()[:16]}]
    line["body"] = {"model": line["body"]["model"], "messages": prompt}
    return json.dumps(line).encode() + b"\n"
