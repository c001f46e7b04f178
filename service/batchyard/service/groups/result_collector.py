"""The results of a shard, once: from its deployment's files to immutable segments of our own store.

Each line of the shard gets exactly one result. What the deployment says nothing of becomes an error line.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from math import inf
from typing import NamedTuple

from prometheus_client import Counter

from batchyard.service.domain.records import ChunkRecord, Counts, Kind, Part
from batchyard.service.engine.result_objects import ERROR, OUTPUT, Segments, segments
from batchyard.service.errors import BatchyardError, NotFound, Refused
from batchyard.service.jsonl.filled_lines import filled_lines
from batchyard.service.jsonl.line_blocks import whole_lines
from batchyard.service.jsonl.line_index import LineIndex
from batchyard.service.jsonl.request_line import lines
from batchyard.service.jsonl.result_reader import ResultReader
from batchyard.service.jsonl.results import Failure, Result, result
from batchyard.service.objects.base import ObjectStore
from batchyard.service.providers.base import Content
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.workers import Run

Lost = Callable[[int], tuple[Failure, bool]]
"""What to say of a line without a result, and whether it ran."""


class Source(NamedTuple):
    """A file of results at a deployment: whether of lines that succeeded, and how many it has at least."""

    open: Callable[[], AbstractAsyncContextManager[Content]]
    succeeded: bool
    least: int


class CollectRequest(NamedTuple):
    """The lines whose results are wanted, of a batch of `group`; `stopped` is why its lines did not run."""

    batch_id: str
    group: str
    parts: Sequence[Part]
    chunk: ChunkRecord
    stopped: Failure | None


class Interrupted(Exception):
    """A deployment's file was not all there: nothing was kept, and it may be tried again."""


class ResultCollector:
    """Writes segments and commits them; `lines` count each line once, when its result is committed."""

    def __init__(self, work: WorkRegistry, store: ObjectStore, lines: Mapping[Kind, Counter], run: Run) -> None:
        """`run` has the threads that read lines."""
        self._work = work
        self._store = store
        self._lines = lines
        self._run = run

    async def gather(self, wanted: CollectRequest, sources: Iterable[Source], lost: Lost, until: float = inf) -> None:
        """Reads results until that time of the event loop, and makes do with what has come by then.

        Raises Interrupted, StorageFull, LeaseLost, and DataLoss where our own input is damaged.
        """
        sources, clock = list(sources), asyncio.get_running_loop().time
        index = await self._index(wanted) if sources else LineIndex()
        reader = ResultReader(wanted.batch_id, wanted.group, index, stopped=wanted.stopped)
        counts, written = Counts(), 0
        async with segments(self._store, wanted.batch_id, wanted.chunk, bounded=not wanted.stopped) as made:
            for source in sources:
                read = -reader.unreadable
                async with aclosing(_blocks(source)) as blocks:
                    async for block in _until(blocks, until):
                        found = await self._run(_read, reader, block, source.succeeded)
                        counts += await _write(made, found)
                        read += len(found)
                        written += len(found)
                read += reader.unreadable  # they are there, and no later look will make more of them
                if read < source.least and clock() < until:
                    raise Interrupted(f"of {source.least} results there are {read}")
            missing = await self._run(lambda: set(index.missing())) if sources else None
            async for number, block in self._input(wanted):
                found = await self._run(_missing, reader, block, number, missing, lost)
                counts += await _write(made, found)
                written += len(found)
            await made.seal(self._work, wanted.chunk, counts)
        not_run = written - counts.completed - counts.failed
        for kind, count in zip(Kind, (counts.completed, counts.failed, not_run), strict=True):
            self._lines[kind].inc(count)

    async def _index(self, wanted: CollectRequest) -> LineIndex:
        index = LineIndex()
        async for number, block in self._input(wanted):
            await self._run(_add, index, block, number)
        return index

    async def _input(self, wanted: CollectRequest) -> AsyncIterator[tuple[int, bytes]]:
        """The input's lines in blocks, each with its first line's number."""
        chunk, number = wanted.chunk, wanted.chunk.first_line
        size = chunk.end - chunk.start
        async for block in whole_lines(self._store.read(wanted.parts, chunk.start, size), size):
            yield number, block
            number += block.count(b"\n")


async def _blocks(source: Source) -> AsyncGenerator[bytes]:
    """A file's lines; one that is not there any more has none."""
    try:
        async with source.open() as content:
            async for block in whole_lines(content.pieces):
                yield block
    except NotFound:
        return
    except BatchyardError as error:
        if isinstance(error, Refused) and error.upstream.http_status in {404, 410}:
            return
        raise Interrupted(error.message) from error


async def _until(blocks: AsyncIterator[bytes], until: float) -> AsyncIterator[bytes]:
    """Those that come in time: a server may send a byte now and then, for ever."""
    while asyncio.get_running_loop().time() < until:
        try:
            async with asyncio.timeout_at(None if until == inf else until):
                block = await anext(blocks, None)
        except TimeoutError:
            return
        if block is None:
            return
        yield block


async def _write(made: Segments, found: Sequence[Result]) -> Counts:
    outputs = b"".join(one.text for one in found if one.kind is Kind.COMPLETED)
    errors = b"".join(one.text for one in found if one.kind is not Kind.COMPLETED)
    for kind, text in ((OUTPUT, outputs), (ERROR, errors)):
        if text:
            await made.write(kind, text)
    return sum((_counted(one) for one in found), Counts())


def _counted(one: Result) -> Counts:
    return Counts(int(one.kind is Kind.COMPLETED), int(one.kind is Kind.FAILED), *one.tokens)


def _read(reader: ResultReader, block: bytes, succeeded: bool) -> list[Result]:
    found = (reader.read(line, succeeded=succeeded) for _, line in filled_lines(block))
    return [one for one in found if one is not None]


def _add(index: LineIndex, block: bytes, number: int) -> None:
    for request in lines(block, number):
        index.add(request.custom_id, request.line_number)


def _missing(reader: ResultReader, block: bytes, number: int, missing: set[int] | None, lost: Lost) -> list[Result]:
    """The results of lines of which nothing was read; `missing` of None: of all."""
    found = []
    for request in lines(block, number):
        if missing is None or request.line_number in missing:
            rest, ran = lost(request.line_number)
            failure = reader.failure(request.custom_id, rest)
            ran = ran or failure is not rest
            found.append(result(reader.batch_id, request.line_number, request.custom_id, failure, ran=ran))
    return found
