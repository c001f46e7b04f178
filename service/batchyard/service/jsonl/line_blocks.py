"""Streams of bytes as blocks of whole lines."""

from collections.abc import AsyncGenerator, AsyncIterator

MOST_LINE = 64 << 20


async def whole_lines(pieces: AsyncIterator[bytes], longest: int = MOST_LINE) -> AsyncGenerator[bytes]:
    """Blocks that end with a line break, but for the last; a line that is longer than `longest` is left out."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        head, newline, tail = piece.rpartition(b"\n")
        if newline:
            if size > longest:
                head = head.partition(b"\n")[2]
            yield b"".join([*held, head, newline])
            held, size = [], 0
        held.append(tail)
        size += len(tail)
        if size > longest:
            held = []
    if 0 < size <= longest:
        yield b"".join(held)
