"""The bytes of a file as a client asks for them, whole or a range, and made-up ones of any size."""

import re
from collections.abc import Iterator

_PIECE = 1 << 16
_LINE = 1000
_TEMPLATE = (
    b'{"id": "batch_req_%032d", "custom_id": "request-%d", "response": {"status_code": 200, "request_id": "req_%032d", '
    b'"body": {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": '
    b'{"role": "assistant", "content": "%s"}, "finish_reason": "stop"}]}}, "error": null}\n'
)
_FILLER = _LINE - len(_TEMPLATE % (0, 0, 0, b""))


def pieces(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        yield data[at : min(at + _PIECE, end)]


def made_up(size: int, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end` of a file of `size` bytes: results of one length each, and blanks for the rest."""
    number, skip = divmod(start, _LINE)
    while start < end:
        lines = b"".join(_line(number + more, size) for more in range(_PIECE // _LINE))
        piece = lines[skip : skip + end - start]
        yield piece
        start += len(piece)
        number, skip = number + _PIECE // _LINE, 0


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """The start and end of the one range that a header asks for; None for what is to be ignored.

    Raises ValueError where the range is not within the file.
    """
    match = re.fullmatch("bytes=([0-9]*)-([0-9]*)", header or "")
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or start >= end:
        raise ValueError(header)
    return start, end


def _line(number: int, size: int) -> bytes:
    if number < size // _LINE:
        filler = b"x" * (_FILLER + 1 - len(str(number)))
        return _TEMPLATE % (number, number, number, filler)
    left = size % _LINE if number == size // _LINE else 0
    return b" " * (left - 1) + b"\n" if left else b""
