"""Inputs that nobody sends by accident, drawn from a seeded random: JSON, batch files, requests and messages.

Each is bounded: what is drawn has at most a few MiB, so that a run of hours shows what inputs do and not how many fit.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

T = TypeVar("T")

MIB = 1 << 20
DEPTHS = (2, 30, 63, 64, 65, 100, 300, 500, 900, *range(965, 1001), 5000, 100_000)
TOKENS = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"-",
    b"--", b"1e999", b"-0", b"NaN", b"Infinity", b"null", b"true", b"9" * 400, b"\\ud800", b"\\u0000", b"\xff",
    b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"%00", b"%2e%2e%2f", b"../", b"; q=0", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    b"GET /health/liveliness HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.0", b"HTTP/2.0",
)  # fmt: skip
WORDS = (
    "",
    "local",
    "batch",
    "user_data",
    "24h",
    "/v1/chat/completions",
    "created_at",
    "asc",
    "\0",
    "x" * 600,
    "é" * 300,
)
NUMBERS = (0, 1, -1, 20, 3600, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400)
URLS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations", "/v1/nothing", "chat/completions")


class Adversary:
    """Draws inputs; the same `random` draws the same ones."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self, *ways: Callable[[], T]) -> T:
        """What one of these functions returns."""
        return self.random.choice(ways)()

    def text(self) -> str:
        """A word that means something somewhere, or any characters, half of a pair among them."""
        if self.random.random() < 0.5:
            return self.random.choice(WORDS)
        size = self.random.choice((1, 3, 20, 300, 5000))
        return "".join(chr(self.random.choice((97, 34, 92, 10, 0, 233, 0x20AC, 0x1F600))) for _ in range(size))

    def number(self) -> float:
        return self.random.choice((*NUMBERS, 1.5, -0.0, 1e308, 1e-308))

    def nested(self) -> bytes:
        """Arrays, objects or both in each other, to any depth; not always closed."""
        depth = self.random.choice(DEPTHS)
        opening, closing = self.random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]")))
        closed: int = self.random.choice((depth, depth, depth - 1))
        return b"".join((opening * depth, b"1", closing * closed))

    def wide(self) -> bytes:
        """An array or object of very many members."""
        count = self.random.choice((10, 1000, 20_000, 200_000))
        if self.random.random() < 0.5:
            return b"[" + b",".join([self.random.choice((b"1", b"[]", b'""', b"1.5"))] * count) + b"]"
        same = self.random.random() < 0.2
        members = (b'"%d":1' % (0 if same else number) for number in range(count))
        return b"{" + b",".join(members) + b"}"

    def names_of_depth(self) -> bytes:
        """Many members, each with something nested in it."""
        depth, count = self.random.choice(((300, 300), (60, 2000), (3, 50_000), (970, 50)))
        inner = b"[" * depth + b"]" * depth
        return b"{" + b",".join(b'"n%d":%s' % (number, inner) for number in range(count)) + b"}"

    def value(self) -> bytes:
        """Any JSON value, or nearly."""
        plain = self._plain
        return self.one(plain, plain, plain, plain, self.nested, self.wide, self.names_of_depth)

    def _plain(self) -> bytes:
        return json.dumps(self.random.choice((None, True, [], {}, self.text(), self.number()))).encode()

    def mutated(self, data: bytes) -> bytes:
        """The data with a few spans replaced: by nothing, by bytes, by a token that parsers know, by another span."""
        for _ in range(self.random.choice((0, 1, 1, 2, 4))):
            start, other = (self.random.randint(0, len(data)) for _ in range(2))
            end = self.random.choice((start, min(start + 1, len(data)), min(start + 40, len(data))))
            new = self.random.choice((self.random.choice(TOKENS), self.random.randbytes(2), data[other : other + 40]))
            data = data[:start] + new + data[end:]
        return data

    def object_of(self, good: dict[str, Any], names: tuple[str, ...]) -> bytes:
        """A good object with a member or two of any values, mutated at times."""
        members = {name: json.dumps(value).encode() for name, value in good.items()}
        for _ in range(self.random.choice((0, 1, 1, 2))):
            members[self.random.choice((*names, "x"))] = self.value()
        if members and self.random.random() < 0.25:
            del members[self.random.choice(list(members))]
        whole = b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items()) + b"}"
        return self.mutated(whole) if self.random.random() < 0.3 else whole

    def line(self) -> bytes:
        """A request of a batch file, right or wrong in a member or two."""
        body = {"model": "echo", "messages": [{"role": "user", "content": self.text()}]}
        good = {
            "custom_id": str(self.random.randint(0, 50)),
            "method": "POST",
            "url": self.random.choice(URLS),
            "body": body,
        }
        return self.object_of(good, ("custom_id", "method", "url", "body"))

    def batch_file(self) -> bytes:
        """Lines of every kind: good, mutated, blank, of a byte, very long, very many."""
        return self.one(self._few, self._few, self._few, self._blank, self._short, self._long, self._mixed)

    def _few(self) -> bytes:
        ending = self.random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n\x20\t\n"))
        return ending.join(self.line() for _ in range(self.random.choice((1, 3, 30))))

    def _blank(self) -> bytes:
        return self.random.choice((b"\n", b"\r\n", b" \n", b"\t\t\n", b"\n\r")) * (3 * MIB)

    def _short(self) -> bytes:
        return self.random.choice((b"1\n", b"{}\n", b'""\n', b"[]\n", b"{\n", b"\0\n", b"x\n")) * (2 * MIB)

    def _mixed(self) -> bytes:
        return b"\n".join((self._few(), self._long(), self._few()))

    def _long(self) -> bytes:
        """A line whose body alone has megabytes."""
        count = self.random.choice((100_000, 100_000, 1_000_000, 7_000_000))
        inner = self.random.choice(
            (b"1," * count, b'"a":1,' * (count // 3), b"[]," * (count // 2), b'{"a":[1]},' * (count // 5))
        )
        body = (
            b'{"model":"echo","input":[%s1]}' % inner if b":" not in inner[:4] else b'{"model":"echo",%s"b":1}' % inner
        )
        return b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":%s}' % body

    def message(self, kind: Any, good: dict[str, Any]) -> Message:
        """A message with any values in a few of its fields, over what `good` names."""
        fields = {field.name: field for field in kind.fields}
        values = {name: value for name, value in good.items() if name in fields}
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            if fields:
                field = self.random.choice(list(fields.values()))
                values[field.name] = self._field(field)
        made: Message = GetMessageClass(kind)(**values)
        return made

    def _field(self, field: Any) -> Any:
        if field.message_type and field.message_type.GetOptions().map_entry:
            count = self.random.choice((0, 1, 16, 17, 2000))
            return {
                self._utf8(self.text())[:80] + str(number): self._utf8(self.text())[:600] for number in range(count)
            }
        if field.is_repeated:
            return [self._single(field) for _ in range(self.random.choice((0, 1, 3)))]
        return self._single(field)

    def _single(self, field: Any) -> Any:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.one(self.value, lambda: self.random.randbytes(20), lambda: self.object_of({}, ("a", "b")))
        if field.message_type is not None:
            return self.message(field.message_type, {})
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.random.random() < 0.5
        bits = 31 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM} else 63
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._utf8(self.text())
        return self.random.choice([number for number in NUMBERS if -(2**bits) <= number < 2**bits])

    @staticmethod
    def _utf8(text: str) -> str:
        return text.encode(errors="replace").decode()
