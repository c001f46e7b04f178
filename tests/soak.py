"""Many mixed calls, good and bad, over REST and gRPC at once; then a look at what the processes hold on to.

A first tenth of the calls fills pools, which are bounded, and is not measured.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, NamedTuple

import aiohttp
import grpc
from tests.harness import ENDED, KEY, Client, chat_lines, jsonl, until
from tests.kills import leftovers
from tests.leaks import descriptors, resident_bytes, system_threads
from tests.processes import Process, batchyard, configure

from batchyard.v1 import (
    CancelBatchRequest,
    DeleteFileRequest,
    ListBatchesRequest,
    ListFilesRequest,
    UploadFileMetadata,
    UploadFileRequest,
    WatchBatchRequest,
)

MIB = 1 << 20
MOST_GROWTH = 32 * MIB
CALLERS = 8
_LEAST_WARMING = 500
_MOST_KEPT = 10
_SAMPLE_SECONDS = 1.0
_WRONG_KEY = {"authorization": "Bearer sk-wrong"}
_TRUNCATED = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disp'
_FORM = {"content-type": "multipart/form-data; boundary=b"}
_JSON = {"content-type": "application/json"}


class Held(NamedTuple):
    """What a process holds: resident bytes, threads of the system, open descriptors."""

    resident: int
    threads: Counter[str]
    descriptors: Counter[str]

    @classmethod
    def by(cls, process: Process) -> "Held":
        return cls(resident_bytes(process.pid), system_threads(process.pid), descriptors(process.pid))


@dataclass
class Report:
    """What a soak came to. `growth` is in bytes, by process: between the calls' ends, and at the most between."""

    seed: int
    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    growth: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        grown = ", ".join(
            f"{name} {end / MIB:+.1f} MiB (at most {most / MIB:+.1f})" for name, (end, most) in self.growth.items()
        )
        total = self.calls.total()
        return f"seed {self.seed}: {total} calls in {self.seconds:.0f} s, memory {grown}, {len(self.faults)} faults"


async def soak(folder: Path, seed: int, calls: int, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Makes that many calls of a service and a shim in processes of their own; `tell` hears of each tenth."""
    report, began = Report(seed), perf_counter()
    configure(folder, echo=True)
    with batchyard(folder, "service") as service:
        target = f"127.0.0.1:{await service.port()}"
        with batchyard(folder, "shim", "--service", target) as shim:
            base = f"http://127.0.0.1:{await shim.port('REST on')}"
            warming = max(calls // 10, _LEAST_WARMING)
            run = _Run(base, target, report, tell)
            await run.make(seed, warming)
            before = {one: Held.by(one) for one in (service, shim)}
            async with _sampled([service, shim]) as most:
                await run.make(seed + 1, calls - warming)
            await _judge(report, before, most)
            report.faults += [f"left behind: {name}" for name in leftovers(folder)]
            stored = [path.name for path in (folder / "data" / "store").rglob("*") if path.is_file()]
            report.faults += [f"not deleted: {name}" for name in stored]
    report.seconds = perf_counter() - began
    return report


async def _judge(report: Report, before: dict[Process, Held], most: dict[Process, int]) -> None:
    for process, held in before.items():
        await _settled(report, process, held)
        growth = resident_bytes(process.pid) - held.resident
        report.growth[process.log.stem] = growth, most[process] - held.resident
        if growth > MOST_GROWTH:
            report.faults.append(f"{process.log.stem} holds {growth / MIB:.1f} MiB more")


async def _settled(report: Report, process: Process, before: Held) -> None:
    """Waits until a process has closed what the calls opened; what it keeps is a fault."""

    async def look() -> Held:
        return Held.by(process)

    def good(now: Held) -> bool:
        return not (now.threads - before.threads or now.descriptors - before.descriptors)

    try:
        await until(look, good, every=0.2)
    except AssertionError as error:
        report.faults.append(f"{process.log.stem} had {before}: {error}")


@asynccontextmanager
async def _sampled(processes: list[Process]) -> AsyncIterator[dict[Process, int]]:
    """The most memory that was resident at any look, while the context lasts."""
    most = {process: resident_bytes(process.pid) for process in processes}

    async def look() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            most.update({one: max(peak, resident_bytes(one.pid)) for one, peak in most.items()})

    task = asyncio.create_task(look())
    try:
        yield most
    finally:
        task.cancel()
        await asyncio.wait([task])


class _Run:
    """Callers, each with connections of its own, which share a number of calls."""

    def __init__(self, base: str, target: str, report: Report, tell: Callable[[str], None]) -> None:
        self._base = base
        self._target = target
        self._report = report
        self._tell = tell
        self._left = 0

    async def make(self, seed: int, calls: int) -> None:
        """Makes the calls and takes everything away again; nothing is open when it returns."""
        self._left, self._each = calls, max(1, calls // 10)
        await asyncio.gather(*(self._call(Random(f"{seed} {number}")) for number in range(CALLERS)))
        gc.collect()  # grpc's client holds the connection of a call that was cancelled until then

    async def _call(self, random: Random) -> None:
        async with AsyncExitStack() as stack:
            rest = aiohttp.ClientSession(self._base, headers={"authorization": f"Bearer {KEY}"})
            caller = Caller(
                random,
                await stack.enter_async_context(rest),
                Client(await stack.enter_async_context(grpc.aio.insecure_channel(self._target))),
            )
            while self._left > 0:
                self._left -= 1
                await self._one(caller, random)
            await caller.tidy()

    async def _one(self, caller: "Caller", random: Random) -> None:
        (name,) = random.choices(list(MIX), weights=list(MIX.values()))
        self._report.calls[name] += 1
        try:
            await getattr(caller, name)()
        except Exception as error:  # one call's, and the run goes on
            self._report.faults.append(f"{name}: {error!r}")
        made = self._report.calls.total()
        if made % self._each == 0:
            self._tell(f"{made} calls, {len(self._report.faults)} faults")


MIX = {
    "upload": 12, "upload_over_grpc": 12, "describe": 10, "files": 6, "files_over_grpc": 6, "download": 8,
    "download_over_grpc": 6, "delete": 4, "delete_over_grpc": 4, "create": 3, "create_over_grpc": 3, "state": 10,
    "batches": 4, "batches_over_grpc": 4, "cancel": 1, "cancel_over_grpc": 1, "watch": 1, "watch_over_rest": 1,
    "break_a_form": 4, "break_a_stream": 4, "ask_for_nothing": 3, "send_no_json": 3, "send_a_wrong_key": 3,
}  # fmt: skip


class Caller:
    """One caller of both doors, with the files and batches that it has made; each method is a call, checked."""

    def __init__(self, random: Random, rest: aiohttp.ClientSession, client: Client) -> None:
        self._random = random
        self._rest = rest
        self._grpc = client
        self._files: dict[str, bytes] = {}
        self._batches: list[str] = []

    async def upload(self) -> None:
        content = self._content()
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", content, filename="a.jsonl")
        await self._made((await self._ask("POST", "/v1/files", data=form))["id"], content)

    async def upload_over_grpc(self) -> None:
        content = self._content()
        await self._made((await self._grpc.upload(content)).id, content)

    async def describe(self) -> None:
        file_id = await self._file()
        assert (await self._ask("GET", f"/v1/files/{file_id}"))["bytes"] == len(self._files[file_id])

    async def files(self) -> None:
        await self._ask("GET", "/v1/files?limit=20")

    async def files_over_grpc(self) -> None:
        await self._grpc.stub.ListFiles(ListFilesRequest(limit=20), metadata=self._grpc.metadata)

    async def download(self) -> None:
        file_id = await self._file()
        async with self._rest.get(f"/v1/files/{file_id}/content") as answer:
            assert await answer.read() == self._files[file_id]

    async def download_over_grpc(self) -> None:
        file_id = await self._file()
        assert await self._grpc.read(file_id) == self._files[file_id]

    async def delete(self) -> None:
        file_id = await self._file()
        if "deleted" in await self._ask("DELETE", f"/v1/files/{file_id}", {200, 409}):  # 409: a batch reads it
            del self._files[file_id]

    async def delete_over_grpc(self) -> None:
        file_id = await self._file()
        call = self._grpc.stub.DeleteFile(DeleteFileRequest(file_id=file_id), metadata=self._grpc.metadata)
        if await _done_or_too_late(call):
            del self._files[file_id]

    async def create(self) -> None:
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": await self._file()}
        self._batches.append((await self._ask("POST", "/v1/batches", json=asked))["id"])

    async def create_over_grpc(self) -> None:
        self._batches.append((await self._grpc.create(await self._file())).id)

    async def state(self) -> None:
        batch_id = await self._batch()
        assert (await self._ask("GET", f"/v1/batches/{batch_id}"))["id"] == batch_id

    async def batches(self) -> None:
        await self._ask("GET", "/v1/batches")

    async def batches_over_grpc(self) -> None:
        await self._grpc.stub.ListBatches(ListBatchesRequest(limit=20), metadata=self._grpc.metadata)

    async def cancel(self) -> None:
        await self._ask("POST", f"/v1/batches/{await self._batch()}/cancel", {200, 409})

    async def cancel_over_grpc(self) -> None:
        request = CancelBatchRequest(batch_id=await self._batch())
        await _done_or_too_late(self._grpc.stub.CancelBatch(request, metadata=self._grpc.metadata))

    async def watch(self) -> None:
        """To the end, or for one state and then away."""
        request = WatchBatchRequest(batch_id=await self._batch())
        call = self._grpc.stub.WatchBatch(request, metadata=self._grpc.metadata)
        if self._random.random() < 0.5:
            assert [seen.batch.status async for seen in call][-1] in ENDED
        else:
            await call.read()
            call.cancel()

    async def watch_over_rest(self) -> None:
        async with self._rest.get(f"/v1/batches/{await self._batch()}/events") as answer:
            assert (await answer.content.readline()).startswith(b"event: batch")
            if self._random.random() < 0.5:
                assert b"event: end" in await answer.read()

    async def break_a_form(self) -> None:
        await self._ask("POST", "/v1/files", {400}, data=_TRUNCATED, headers=_FORM)

    async def break_a_stream(self) -> None:
        """Without its finish, or in the midst of it."""
        call = self._grpc.stub.UploadFile(metadata=self._grpc.metadata)
        await call.write(UploadFileRequest(metadata=UploadFileMetadata(purpose="batch")))
        await call.write(UploadFileRequest(data=self._content()))
        if self._random.random() < 0.5:
            call.cancel()
            return
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def ask_for_nothing(self) -> None:
        await self._ask("GET", "/v1/files/file-missing/content", {404})

    async def send_no_json(self) -> None:
        await self._ask("POST", "/v1/batches", {400}, data=b'{"endpoint', headers=_JSON)

    async def send_a_wrong_key(self) -> None:
        await self._ask("GET", "/v1/batches", {401}, headers=_WRONG_KEY)

    async def tidy(self) -> None:
        """Lets the batches end, and deletes every file, theirs too."""
        for batch_id in self._batches:
            await self._forget(batch_id)
        for file_id in self._files:
            await self._ask("DELETE", f"/v1/files/{file_id}")

    async def _forget(self, batch_id: str) -> None:
        batch = await self._grpc.ended(batch_id)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            await self._ask("DELETE", f"/v1/files/{file_id}")

    async def _made(self, file_id: str, content: bytes) -> None:
        self._files[file_id] = content
        if len(self._files) > _MOST_KEPT:
            await self.delete()
        if len(self._batches) > _MOST_KEPT:
            await self._forget(self._batches.pop(0))

    async def _file(self) -> str:
        if not self._files:
            await self.upload()
        return self._random.choice(list(self._files))

    async def _batch(self) -> str:
        if not self._batches:
            await self.create()
        return self._random.choice(self._batches)

    def _content(self) -> bytes:
        return jsonl(chat_lines(self._random.choice([1, 1, 1, 2, 5, 30])))

    async def _ask(self, verb: str, path: str, statuses: Set[int] = frozenset({200}), **more: Any) -> dict[str, Any]:
        """The JSON of an answer with one of these statuses."""
        async with self._rest.request(verb, path, **more) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status in statuses, f"{answer.status} {found}"
            return found


async def _done_or_too_late(call: Any) -> bool:
    """Whether a call was done; it may have come too late: the file is read, or the batch has ended."""
    code = await call.code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION}, code
    return code is grpc.StatusCode.OK
