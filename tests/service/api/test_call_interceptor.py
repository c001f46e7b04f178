"""Around every call: who may call, how errors cross the border, request ids, bounds, and the log."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.harness import KEY, figures, keys_of, refused, service, settings_for, until
from tests.statuses import told, trailer

from batchyard.service import errors
from batchyard.service.access.caller import current_caller
from batchyard.service.api.authentication import KeyInterceptor
from batchyard.service.api.call_interceptor import CallInterceptor
from batchyard.service.api.message_reader import Context
from batchyard.service.config.settings import Limits
from batchyard.service.errors import BatchyardError, Defect, InvalidArgument, NotFound, Refused, Unauthenticated
from batchyard.service.server import Server
from batchyard.v1 import (
    Batch,
    BatchServiceServicer,
    BatchServiceStub,
    DownloadFileRequest,
    DownloadFileResponse,
    GetBatchRequest,
    GetBatchResponse,
    GetFileRequest,
    ListFilesRequest,
    UploadFileMetadata,
    UploadFileRequest,
    UploadFileResponse,
    add_BatchServiceServicer_to_server,
)

if TYPE_CHECKING:
    from batchyard.v1.batch_service_pb2_grpc import BatchServiceAsyncStub  # in the types only

SERVICE = "batchyard.v1.BatchService"
INVALID, SERVER = "invalid_request_error", "server_error"
TREE: dict[type[BatchyardError], tuple[StatusCode, str, str]] = {
    errors.InvalidArgument: (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", INVALID),
    errors.TooLarge: (StatusCode.INVALID_ARGUMENT, "TOO_LARGE", INVALID),
    errors.Unauthenticated: (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", INVALID),
    errors.AlreadyExists: (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", INVALID),
    errors.PermissionDenied: (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", INVALID),
    errors.NotFound: (StatusCode.NOT_FOUND, "NOT_FOUND", INVALID),
    errors.FailedPrecondition: (StatusCode.FAILED_PRECONDITION, "FAILED_PRECONDITION", INVALID),
    errors.OutOfRange: (StatusCode.OUT_OF_RANGE, "OUT_OF_RANGE", INVALID),
    errors.Late: (StatusCode.DEADLINE_EXCEEDED, "TIMEOUT", SERVER),
    errors.Defect: (StatusCode.INTERNAL, "INTERNAL", SERVER),
    errors.Busy: (StatusCode.RESOURCE_EXHAUSTED, "BUSY", "requests"),
    errors.StorageFull: (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL", SERVER),
    errors.DataLoss: (StatusCode.DATA_LOSS, "DATA_LOSS", SERVER),
    errors.Unavailable: (StatusCode.UNAVAILABLE, "UNAVAILABLE", SERVER),
    errors.Unsure: (StatusCode.UNAVAILABLE, "UNSURE", SERVER),
    errors.Unusable: (StatusCode.UNAVAILABLE, "UNSURE", SERVER),
    errors.LeaseLost: (StatusCode.ABORTED, "LEASE_LOST", INVALID),
}

Behaviour = Callable[[], Awaitable[object]]
Call = Callable[["BatchServiceAsyncStub", tuple[tuple[str, str], ...]], Any]


class Behaving(BatchServiceServicer):
    """Does as it is told in one RPC of each kind."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def GetBatch(self, request: GetBatchRequest, context: Context) -> GetBatchResponse:  # noqa: N802
        await self._behaviour()
        return GetBatchResponse(batch=Batch(id=current_caller.get().tenant))

    async def UploadFile(  # noqa: N802
        self, request_iterator: AsyncIterator[UploadFileRequest], context: Context
    ) -> UploadFileResponse:
        await self._behaviour()
        return UploadFileResponse()

    async def DownloadFile(  # noqa: N802
        self, request: DownloadFileRequest, context: Context
    ) -> AsyncIterator[DownloadFileResponse]:
        await self._behaviour()
        yield DownloadFileResponse(data=b"piece")


@asynccontextmanager
async def behaving(behaviour: Behaviour, unary_seconds: float = 60) -> AsyncIterator["BatchServiceAsyncStub"]:
    """A stub of a server whose RPCs do `behaviour` between the interceptors and their answer."""
    server = aio.server(
        interceptors=[CallInterceptor(unary_seconds, Limits(), figures()), KeyInterceptor(keys_of(None))]
    )
    add_BatchServiceServicer_to_server(Behaving(behaviour), server)  # type: ignore[abstract]  # three RPCs will do
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield BatchServiceStub(channel)
    finally:
        await server.stop(0)


def channel_to(server: Server) -> aio.Channel:
    return aio.insecure_channel(f"127.0.0.1:{server.grpc_port}")


def raising(error: Exception) -> Behaviour:
    async def behaviour() -> None:
        raise error

    return behaviour


async def _unary(stub: "BatchServiceAsyncStub", metadata: tuple[tuple[str, str], ...]) -> Any:
    return await stub.GetBatch(GetBatchRequest(batch_id="batch_x"), metadata=metadata)


async def _upload(stub: "BatchServiceAsyncStub", metadata: tuple[tuple[str, str], ...]) -> Any:
    return await stub.UploadFile(_nothing_yet(), metadata=metadata)


async def _nothing_yet() -> AsyncIterator[UploadFileRequest]:
    """An upload that sends nothing: grpc.aio's client may lose the status of a call that ends while it sends."""
    await asyncio.Event().wait()
    yield UploadFileRequest()


async def _download(stub: "BatchServiceAsyncStub", metadata: tuple[tuple[str, str], ...]) -> Any:
    return [message async for message in stub.DownloadFile(DownloadFileRequest(file_id="file-x"), metadata=metadata)]


KINDS: list[Call] = [_unary, _upload, _download]
kinds = pytest.mark.parametrize("call", KINDS, ids=["unary", "upload", "download"])


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def calls_in(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[logging.LogRecord]:
    """The calls' log lines, once there are `count`: a call's line follows its answer."""

    async def look() -> list[logging.LogRecord]:
        ours = [record for record in caplog.records if record.name == "batchyard.service"]
        return [record for record in ours if record.getMessage() == "call"]

    return await until(look, lambda records: len(records) >= count)


class TestAKey:
    @kinds
    @pytest.mark.parametrize(
        ("metadata", "code"),
        [
            ((), None),
            ((("authorization", ""),), None),
            (bearer("sk-wrong"), "invalid_api_key"),
            (bearer(""), "invalid_api_key"),
            (bearer(f"{KEY}x"), "invalid_api_key"),
            (bearer(KEY[:-1]), "invalid_api_key"),
            (bearer("x" * 4000), "invalid_api_key"),
            ((("authorization", f"Basic {KEY}"),), "invalid_api_key"),
            ((("authorization", KEY),), "invalid_api_key"),
            ((*bearer(KEY), *bearer("sk-wrong")), "invalid_api_key"),
        ],
        ids=["none", "empty", "wrong", "no token", "longer", "shorter", "huge", "basic", "bare", "two"],
    )
    async def test_that_is_missing_or_wrong_is_unauthenticated(
        self, tmp_path: Path, call: Call, metadata: tuple[tuple[str, str], ...], code: str | None
    ) -> None:
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.UNAUTHENTICATED) as found:
            await call(client.stub, metadata)
        error = told(found[0])
        start = "Incorrect API key provided." if code else "You didn't provide an API key."
        assert error.message.startswith(start)
        assert (error.code, error.type, error.reason) == (code, INVALID, "UNAUTHENTICATED")

    @pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
    async def test_that_is_right_is_let_in_whatever_the_case_of_its_scheme(self, tmp_path: Path, scheme: str) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            assert await client.stub.ListFiles(ListFilesRequest(), metadata=(("authorization", scheme + KEY),))

    @pytest.mark.parametrize("metadata", [(), bearer("anything"), (("authorization", "Basic x"),)])
    async def test_is_not_needed_where_no_master_key_is_set(
        self, tmp_path: Path, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        async with service(settings_for(tmp_path, master_key=None)) as (_, client):
            assert await client.stub.ListFiles(ListFilesRequest(), metadata=metadata)

    @pytest.mark.parametrize("key", ["schlüssel", "🔑", "x" * 100_000, "\udcff", "\x00"])
    async def test_of_any_text_is_compared_without_failing(self, key: str) -> None:
        with pytest.raises(Unauthenticated):
            await keys_of("sk-test").caller(f"Bearer {key}")

    async def test_may_have_any_characters(self) -> None:
        assert (await keys_of("schlüssel 🔑").caller("Bearer schlüssel 🔑")).tenant == "default"

    async def test_is_not_needed_for_health_and_reflection(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (server, _), channel_to(server) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            answers = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
            assert SERVICE in {found.name for found in answers[0].list_services_response.service}

    async def test_that_is_wrong_stops_an_upload_before_its_body_is_read(self, tmp_path: Path) -> None:
        pieces, total = 0, 2000

        async def body() -> AsyncIterator[UploadFileRequest]:
            nonlocal pieces
            yield UploadFileRequest(metadata=UploadFileMetadata(purpose="batch"))
            for pieces in range(total):  # noqa: B007 - counted for the assertion
                yield UploadFileRequest(data=b"x" * (256 << 10))

        async with service(settings_for(tmp_path)) as (_, client):
            call = client.stub.UploadFile(body(), metadata=bearer("sk-wrong"))
            assert not await call.initial_metadata()
            async with refused(StatusCode.UNAUTHENTICATED):
                await call
        assert pieces < total / 10

    async def test_is_in_no_log_record(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with service(settings_for(tmp_path)) as (_, client):
            await client.upload(b"{}\n")
            async with refused(StatusCode.UNAUTHENTICATED):
                await _unary(client.stub, bearer("sk-wrong"))
        assert len(await calls_in(caplog, 2)) == 2
        logged = caplog.text + str([vars(record) for record in caplog.records])
        assert KEY not in logged
        assert "sk-wrong" not in logged


class TestAnError:
    def test_is_in_the_table(self) -> None:
        def below(error: type[BatchyardError]) -> set[type[BatchyardError]]:
            return {error}.union(*(below(each) for each in error.__subclasses__()))

        ours = {error for error in below(BatchyardError) if error.__module__ == errors.__name__}
        assert ours - {BatchyardError, Refused} == set(TREE)  # what a provider says has a border of its own

    @kinds
    @pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
    async def test_crosses_the_border_with_all_that_it_says(self, call: Call, error: type[BatchyardError]) -> None:
        raised = Defect() if error is Defect else error("Words.", param="field", code="word")
        code, reason, type_ = TREE[error]
        async with behaving(raising(raised)) as stub, refused(code) as found:
            await call(stub, ())
        details = told(found[0])
        assert (details.reason, details.domain, details.type) == (reason, "batchyard", type_)
        assert (details.message, details.param, details.code) == (raised.message, raised.param, raised.code)
        assert details.retry_after == (1 if error is errors.Busy else None)

    async def test_may_have_a_reason_of_its_own_and_neither_param_nor_code(self) -> None:
        error = NotFound("Words.", reason="OTHER")
        async with behaving(raising(error)) as stub, refused(StatusCode.NOT_FOUND) as found:
            await _unary(stub, ())
        details = told(found[0])
        assert (details.reason, details.param, details.code) == ("OTHER", None, None)

    @pytest.mark.parametrize("character", ["x", "%", "\n", "é", "文", "🔑"])
    async def test_with_a_huge_message_is_cut_and_always_arrives_whole(self, character: str) -> None:
        error = InvalidArgument(f"begin{character * 100_000}end", param=character * 100_000, code="word")
        async with behaving(raising(error)) as stub:
            for _ in range(100):
                async with refused(StatusCode.INVALID_ARGUMENT) as found:
                    await _unary(stub, ())
                details = told(found[0])
                assert details.size < 7500
                assert details.message.startswith("begin")
                assert details.message.endswith("end")
                assert (details.param or "").startswith(character * 10)

    async def test_of_a_thousand_characters_is_not_cut(self) -> None:
        async with behaving(raising(NotFound("x" * 1000))) as stub, refused(StatusCode.NOT_FOUND) as found:
            await _unary(stub, ())
        assert told(found[0]).message == "x" * 1000

    @kinds
    @pytest.mark.parametrize("defect", [RuntimeError("secret"), TimeoutError("secret"), KeyError("secret")], ids=repr)
    async def test_of_no_known_kind_is_internal_logged_and_its_text_is_withheld(
        self, call: Call, defect: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with behaving(raising(defect)) as stub, refused(StatusCode.INTERNAL) as found:
            await call(stub, ())
        assert "secret" not in str(found[0]) + str(told(found[0]))
        traced = [record for record in caplog.records if record.exc_info and record.exc_info[1] is defect]
        assert [record.levelno for record in traced] == [logging.ERROR]
        assert [record.levelno for record in await calls_in(caplog)] == [logging.ERROR]


class TestARequestId:
    @kinds
    async def test_that_the_caller_gives_comes_back_with_an_error(self, call: Call) -> None:
        async with behaving(raising(NotFound("x"))) as stub, refused(StatusCode.NOT_FOUND) as found:
            await call(stub, (("x-request-id", "my-id.1_2"),))
        assert trailer(found[0].trailing_metadata(), "x-request-id") == "my-id.1_2"

    async def test_that_the_caller_gives_comes_back_with_an_answer(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client):
            metadata = (*client.metadata, ("x-request-id", "my-id"))
            call = client.stub.ListFiles(ListFilesRequest(), metadata=metadata)
            await call
            assert trailer(await call.trailing_metadata(), "x-request-id") == "my-id"

    @pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a/b", "a=b"])
    async def test_is_made_where_there_is_none_that_is_fit_for_a_log(
        self, tmp_path: Path, given: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        metadata = () if given is None else (("x-request-id", given),)
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.NOT_FOUND) as found:
            await _unary(client.stub, (*client.metadata, *metadata))
        made = trailer(found[0].trailing_metadata(), "x-request-id")
        assert isinstance(made, str)
        assert made.startswith("req_")
        assert [vars(record)["request_id"] for record in await calls_in(caplog)] == [made]


class TestTheLog:
    @pytest.mark.parametrize(
        ("call", "method", "code"),
        [
            (_unary, "GetBatch", "NOT_FOUND"),
            (lambda stub, metadata: stub.UploadFile(iter(()), metadata=metadata), "UploadFile", "INVALID_ARGUMENT"),
            (_download, "DownloadFile", "NOT_FOUND"),
        ],
    )
    async def test_has_one_line_a_call_with_its_fields(
        self, tmp_path: Path, call: Call, method: str, code: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with service(settings_for(tmp_path)) as (_, client), refused(getattr(StatusCode, code)):
            await call(client.stub, client.metadata)
        (record,) = await calls_in(caplog)
        fields = vars(record)
        assert (fields["method"], fields["code"], fields["tenant"]) == (method, code, "default")
        assert record.levelno == logging.INFO
        assert isinstance(fields["duration_ms"], float)

    async def test_has_no_tenant_for_a_caller_who_is_not_known(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.UNAUTHENTICATED):
            await _unary(client.stub, ())
        assert [(vars(record)["code"], vars(record)["tenant"]) for record in await calls_in(caplog)] == [
            ("UNAUTHENTICATED", None)
        ]

    async def test_has_a_line_for_a_call_that_the_caller_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        entered, ended = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with behaving(wait) as stub:
            call = stub.GetBatch(GetBatchRequest())
            waiting = asyncio.ensure_future(_answer(call))
            await entered.wait()
            call.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await ended.wait()
        assert [vars(record)["code"] for record in await calls_in(caplog)] == ["CANCELLED"]


class TestABound:
    async def test_in_time_ends_a_unary_call_and_no_stream(self) -> None:
        gate = asyncio.Event()
        async with behaving(gate.wait, unary_seconds=0.05) as stub:
            streaming = asyncio.create_task(_download(stub, ()))
            async with refused(StatusCode.DEADLINE_EXCEEDED) as found:
                await _unary(stub, ())
            gate.set()
            assert [message.data for message in await streaming] == [b"piece"]
        assert told(found[0]).message == "The call took more than 0.05 seconds."

    async def test_of_the_message_size_refuses_a_larger_request(self, tmp_path: Path) -> None:
        async with service(settings_for(tmp_path)) as (_, client), refused(StatusCode.RESOURCE_EXHAUSTED):
            await client.stub.GetFile(GetFileRequest(file_id="x" * (9 << 20)), metadata=client.metadata)


async def _answer(call: Any) -> Any:
    return await call
