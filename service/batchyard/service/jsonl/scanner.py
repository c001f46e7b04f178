"""The streaming scan of a batch's input, once, while it is uploaded.

A scan keeps no line: what it finds is small whatever the file, and fits one database column. It doesn't know the
batch's endpoint; `validation.judge` compares the two when a batch is created.
"""

from collections import Counter
from collections.abc import Callable, Container
from io import BytesIO
from typing import Any, Self

import msgspec
from msgspec import Struct

from batchyard.service.config.settings import Limits
from batchyard.service.domain.names import BYTES_PER_TOKEN
from batchyard.service.jsonl.digest_set import Digests
from batchyard.service.jsonl.filled_lines import BLANK, LineCounter, blank_end
from batchyard.service.jsonl.request_line import (
    EMBEDDINGS,
    Fault,
    Line,
    check_body,
    embedding_inputs,
    endpoint_of,
    is_json,
    prompt_bytes,
    read_good_line,
    read_line,
)

MAX_MODELS = 16
MAX_URLS = 8
MAX_URL = 256
TRACKED_MODELS = 1000
"""Models that are counted; a file that names more is refused for naming more than one."""
BOM = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")
_BLANKS = BLANK + b"\n"


class LineError(Struct, frozen=True, array_like=True):
    """One thing that is wrong with an input, in OpenAI's words; `line` counts from 1, None is the file."""

    code: str
    message: str
    param: str | None
    line: int | None


class UrlLines(Struct, array_like=True):
    """How many lines have a url, and which are the first; `url` None: any that came when the list was full."""

    url: str | None
    count: int
    first: list[int]


class Chunk(Struct, frozen=True, array_like=True):
    """A run of requests: how many from which (from 0), the line of the first (from 1), and their bytes in the file.

    `tokens` estimates those of the prompts, rounded down; 0 in scans that were stored before they were counted.
    """

    first_request: int
    requests: int
    first_line: int
    offset: int
    size: int
    tokens: int = 0


class Scan(Struct, frozen=True, kw_only=True):
    """What a scan found. `lines` counts requests; blank lines are none, though they count in line numbers.

    `refusal` says why the upload itself is to be refused: the file is empty, or its first line is not JSON. `errors`
    are those that hold for any endpoint, by line. `models` are the most frequent, `estimated_tokens` those of prompts.
    `chunks` hold every request once, in order, and no blank lines at either end.
    """

    lines: int
    bytes: int
    models: tuple[str, ...]
    estimated_tokens: int
    urls: tuple[UrlLines, ...]
    errors: tuple[LineError, ...]
    chunks: tuple[Chunk, ...]
    refusal: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the scan as JSON's own types."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """Rebuilds what `to_dict` gave. Raises msgspec.ValidationError."""
        return msgspec.convert(found, cls)


class Scanner:
    """Scans a file that comes in pieces, however they are cut; not thread-safe, and busy: run it in a worker thread.

    A chunk ends before `chunk_lines` or `chunk_bytes` would be exceeded; a longer line is a chunk of its own. `models`
    are those that lines may name; None: any.

    What it keeps is bounded whatever comes, and what is done for a line is little where there can be very many: blank
    lines are passed over together, lines beyond the limit are only counted, and faults that nobody is told of are not
    looked into.
    """

    def __init__(
        self, limits: Limits, *, chunk_lines: int, chunk_bytes: int, models: Container[str] | None = None
    ) -> None:
        self._longest = limits.max_line_bytes
        self._most = limits.max_batch_lines
        self._most_inputs = limits.max_embedding_inputs
        self._max_errors = limits.max_line_errors
        self._supported = models
        self._held = bytearray()
        self._held_bytes = 0
        self._bytes = 0
        self._offset = 0
        self._number = 0
        self._lines = 0
        self._chunks = _Chunks(chunk_lines, chunk_bytes)
        self._urls = _Urls(limits.max_line_errors)
        self._models = _Models()
        self._custom_ids = Digests()
        self._prompt_bytes = 0
        self._inputs = 0
        self._errors: list[LineError] = []
        self._refusal: str | None = None
        self._read: Callable[[bytes | bytearray], Line] = read_line
        self._surplus: LineCounter | None = None  # counts lines beyond the limit

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        self._bytes += len(data)
        if self._surplus:
            self._surplus.feed(data)
            return
        lines = BytesIO(data)  # finds a line's end four times as fast as `split`, which looks at each byte by itself
        blank_until = -1
        for line in lines:
            if line[-1] != _NEWLINE or self._held_bytes:
                self._hold(line)
            elif not line.isspace() or not self._is_blank(line, len(line) - 1):
                self._take(line, len(line) - 1)
            else:
                self._number += 1
                self._offset += len(line)
                if lines.tell() - len(line) == blank_until:
                    self._pass_over_run(data, lines)
                blank_until = lines.tell()
                continue
            if self._surplus:
                self._surplus.feed(lines.read())
                return

    def _pass_over_run(self, data: bytes, lines: BytesIO) -> None:
        """Goes on behind the blank lines that come next."""
        start = lines.tell()
        end = blank_end(data, start, self._longest)
        self._number += data.count(b"\n", start, end)
        self._offset += end - start
        lines.seek(end)

    def finish(self) -> Scan:
        """Ends the file, whose last line needs no newline, and returns what was found. Call it once."""
        if self._surplus:
            self._surplus.finish()
            self._lines += self._surplus.count
        elif self._held_bytes:
            self._take_held()
        if not self._lines:
            self._refusal = "Invalid file format for Batch API. Must be .jsonl: the file is empty."
        return Scan(
            lines=self._lines,
            bytes=self._bytes,
            models=self._models.found(),
            estimated_tokens=self._prompt_bytes // BYTES_PER_TOKEN,
            urls=self._urls.found(),
            errors=(*self._too_many(), *self._errors),
            chunks=self._chunks.found(min(self._lines, self._most), self._prompt_bytes),
            refusal=self._refusal,
        )

    def _hold(self, piece: bytes) -> None:
        """Keeps the start of a line, while it isn't too long, and takes the line where this is its end."""
        ends = piece[-1] == _NEWLINE
        self._held_bytes += len(piece) - ends
        if self._held_bytes <= self._longest:
            self._held += piece
        else:
            self._held = bytearray()
        if ends:
            self._take_held()

    def _take_held(self) -> None:
        line, size = self._held, self._held_bytes
        self._held = bytearray()
        self._held_bytes = 0
        if self._is_blank(line, size):
            self._number += 1
            self._offset += size + 1
        else:
            self._take(line, size)

    def _is_blank(self, line: bytes | bytearray, size: int) -> bool:
        return size <= self._longest and line.isspace() and not line.strip(_BLANKS)

    def _take(self, line: bytes | bytearray, size: int) -> None:
        """Counts a line of `size` bytes without its newline; one that is too long need not be whole."""
        self._number += 1
        start = self._offset
        self._offset = start + size + 1
        self._lines += 1
        if self._lines > self._most:
            self._surplus = LineCounter(self._longest)
            return
        self._chunks.note(self._lines - 1, self._number, start, start + size, self._prompt_bytes)
        try:
            if size > self._longest:
                raise Fault("invalid_request", f"This line is longer than the maximum of {self._longest} bytes.")
            if self._lines == 1:
                self._refuse_other_formats(line)
            self._check(self._read(line))
        except Fault as fault:
            self._note(fault)

    def _note(self, fault: Fault) -> None:
        if len(self._errors) < self._max_errors:
            self._errors.append(LineError(fault.code, fault.message, fault.param, self._number))
        if len(self._errors) == self._max_errors:
            self._read = read_good_line  # of the others nobody is told what is wrong

    def _check(self, line: Line) -> None:
        body, model = line.body, line.body.model
        endpoint = self._urls.note(line.url, self._number)
        known = self._models.note(model) if model else True
        self._prompt_bytes += prompt_bytes(body)
        if not self._custom_ids.add(line.custom_id):
            raise _duplicate(line.custom_id)
        check_body(body, endpoint)
        if endpoint == EMBEDDINGS:
            self._inputs += embedding_inputs(body)
        if model and self._supported is not None and model not in self._supported:
            message = f"The provided model '{model}' is not supported by the Batch API."
            raise Fault("model_not_found", message, "body.model")
        if model and not known:
            raise _mismatched(model)

    def _refuse_other_formats(self, line: bytes | bytearray) -> None:
        """Looks behind a byte order mark: OpenAI takes such an upload, and fails its batch for line 1."""
        marked = line[: len(BOM)] == BOM  # `removeprefix` copies a line of mebibytes also where there is none
        if not is_json(line[len(BOM) :] if marked else line):
            self._refusal = f"Invalid file format for Batch API. Must be .jsonl: line {self._number} is not valid JSON."

    def _too_many(self) -> list[LineError]:
        counted = ((self._lines, self._most, "requests"), (self._inputs, self._most_inputs, "embedding inputs"))
        return [
            LineError("too_many_tasks", _too_many(count, most, what), None, None)
            for count, most, what in counted
            if count > most
        ]


class _Chunks:
    """Cuts requests into chunks, each as large as it may be.

    Requests come numbered from 0; `prompt_bytes` are those of all that came before.
    """

    def __init__(self, lines: int, size: int) -> None:
        self._lines = lines
        self._size = size
        self._found: list[Chunk] = []
        self._request = self._line = self._start = self._prompt_bytes = 0  # where the chunk begins
        self._next_request = self._latest_end = 0  # where it must end
        self._end = 0

    def note(self, request: int, line: int, start: int, end: int, prompt_bytes: int) -> None:
        """Adds a request whose line goes from `start` to `end`."""
        if request == self._next_request or end > self._latest_end:
            self._cut(request, prompt_bytes)
            self._request, self._line, self._start, self._prompt_bytes = request, line, start, prompt_bytes
            self._next_request, self._latest_end = request + self._lines, start + self._size
        self._end = end

    def found(self, requests: int, prompt_bytes: int) -> tuple[Chunk, ...]:
        """Ends the last chunk and returns all; `requests` is how many were added."""
        self._cut(requests, prompt_bytes)
        return tuple(self._found)

    def _cut(self, request: int, prompt_bytes: int) -> None:
        requests = request - self._request
        if requests:
            size, tokens = self._end - self._start, (prompt_bytes - self._prompt_bytes) // BYTES_PER_TOKEN
            self._found.append(Chunk(self._request, requests, self._line, self._start, size, tokens))


class _Models:
    """How many lines name which model; the first is the one that all should name."""

    def __init__(self) -> None:
        self._first: str | None = None
        self._first_count = 0
        self._others: Counter[str] = Counter()

    def note(self, model: str) -> bool:
        """Counts a model; False: it is not the first."""
        if model == self._first:
            self._first_count += 1
            return True
        if self._first is None:
            self._first, self._first_count = model, 1
            return True
        if model in self._others or len(self._others) < TRACKED_MODELS:
            self._others[model] += 1
        return False

    def found(self) -> tuple[str, ...]:
        """Returns the most frequent, those named earlier first where they are equally so."""
        if self._first is None:
            return ()
        counts = Counter({self._first: self._first_count}) + self._others
        return tuple(model for model, _ in counts.most_common(MAX_MODELS))


class _Urls:
    """Which lines have which url, in a bounded way."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._found: dict[str, UrlLines] = {}
        self._others = UrlLines(None, 0, [])
        self._url: str | None = None
        self._endpoint = ""
        self._last = self._others

    def note(self, url: str, number: int) -> str:
        """Counts a line's url and returns the endpoint that it means."""
        if url != self._url:
            self._url = url if len(url) <= MAX_URL else None  # a very long one is not kept
            self._endpoint = endpoint_of(url[:MAX_URL])[:MAX_URL]
            self._last = self._lines_of(self._endpoint)
        found = self._last
        found.count += 1
        if found.count <= self._lines:
            found.first.append(number)
        return self._endpoint

    def found(self) -> tuple[UrlLines, ...]:
        return (*self._found.values(), *([self._others] if self._others.count else []))

    def _lines_of(self, endpoint: str) -> UrlLines:
        found = self._found.get(endpoint)
        if found is None:
            if len(self._found) == MAX_URLS:
                return self._others
            found = self._found[endpoint] = UrlLines(endpoint, 0, [])
        return found


def _too_many(count: int, most: int, what: str) -> str:
    return f"The batch input file has {count} {what}, more than the maximum of {most}."


def _duplicate(custom_id: str) -> Fault:
    message = (
        f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
        "The custom_id parameter must be unique for each request in a batch."
    )
    return Fault("duplicate_custom_id", message, "custom_id")


def _mismatched(model: str) -> Fault:
    message = (
        f"The model '{model}' for this request does not match the rest of the batch. "
        "Each batch must contain requests for a single model."
    )
    return Fault("mismatched_model", message, "body.model")
