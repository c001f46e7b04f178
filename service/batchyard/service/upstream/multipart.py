"""A file on its way to a provider: a multipart form that is written while the file still comes.

Fields that are known come before the file, as OpenAI's SDK for Python sends them; others behind it, as that for Node
does. Where a size is announced, the form has a Content-Length with room for that and no more. A file that is smaller
leaves room for the fields behind it, which took it in the form that the caller sent; what still is left becomes the
form's epilogue, which every reader of forms discards (RFC 2046, 5.1.1).
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from batchyard.service.errors import InvalidArgument

_MOST_SPARE = 64 << 10
"""How much less a file may be than was announced: a form's own fields behind it, as its caller wrote them."""

Fields = Sequence[tuple[str, str]]


class MultipartForm:
    """A form of `fields`, then a file of at most `announced` bytes (None: nobody knows), then other fields.

    There is room for `reserved` behind the file in any case.
    """

    def __init__(
        self, filename: str, content_type: str, fields: Fields, reserved: Fields, announced: int | None
    ) -> None:
        self._boundary = secrets.token_urlsafe(9).encode()  # short: it takes room that another's took
        before = b"".join(self._delimiter() + _field(*field) + b"\r\n" for field in fields)
        self._head = before + self._delimiter() + _file_head(filename, content_type)
        self._tail = b"\r\n--%b--" % self._boundary
        # A line break ends the form where there is room.
        self._reserved = len(self._behind(reserved)) + 2
        self._left = None if announced is None else announced + self._reserved

    def headers(self) -> dict[str, str]:
        """The request's headers; with the length, where it is known."""
        headers = {"content-type": f"multipart/form-data; boundary={self._boundary.decode()}"}
        if self._left is not None:
            headers["content-length"] = str(len(self._head) + self._left + len(self._tail))
        return headers

    async def body(self, pieces: AsyncIterator[bytes | Fields]) -> AsyncIterator[bytes]:
        """The form's bytes. `pieces` are those of the file, and last the fields that come behind it."""
        yield self._head
        async for piece in pieces:
            yield piece if isinstance(piece, bytes) else self._end(piece)

    def take(self, size: int) -> None:
        """Counts the next bytes of the file. Raises InvalidArgument where they are more than was announced."""
        if self._left is not None:
            self._left -= size
            if self._left < self._reserved:
                raise InvalidArgument("The file is larger than was announced.", param="size_hint")

    def check_end(self, fields: Fields) -> None:
        """Raises InvalidArgument where the fields behind the file don't fit, or far too much was announced."""
        if self._left is None:
            return
        spare = self._left - len(self._behind(fields))
        if spare < 0:
            raise InvalidArgument("The form has no room for fields behind the file; send them before it.")
        if spare > _MOST_SPARE:
            raise InvalidArgument("The file is smaller than was announced.", param="size_hint")

    def _end(self, fields: Fields) -> bytes:
        behind = self._behind(fields)
        spare = 2 if self._left is None else self._left - len(behind)
        return behind + self._tail + b"\r\n".ljust(spare)[:spare]

    def _behind(self, fields: Fields) -> bytes:
        return b"".join(b"\r\n" + self._delimiter() + _field(*field) for field in fields)

    def _delimiter(self) -> bytes:
        return b"--%b\r\n" % self._boundary


def _field(name: str, value: str) -> bytes:
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name.encode(), value.encode())


def _file_head(filename: str, content_type: str) -> bytes:
    # A name is written as browsers do: percent-encoded where it would end the quotes or the line.
    name = "".join(quote(char) if char in '"\r\n' else char for char in filename).encode()
    disposition = b'Content-Disposition: form-data; name="file"; filename="%b"' % name
    return b"%b\r\nContent-Type: %b\r\n\r\n" % (disposition, content_type.encode())
