"""The contract as the command for people speaks it: each call is tried again while the service is away for a moment."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import uniform
from threading import Event
from time import monotonic, sleep
from typing import Any, TypeVar

import grpc
from google.rpc import status_pb2

from batchyard.admin.v1 import (
    AdminServiceStub,
    CreateKeyRequest,
    CreateKeyResponse,
    Key,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RotateKeyRequest,
    RotateKeyResponse,
)
from batchyard.cli.console import plain
from batchyard.cli.diagnosis import diagnose
from batchyard.cli.errors import RunError
from batchyard.common import channels
from batchyard.common.calls import BOUNDS, DETAILS, NOTE
from batchyard.common.certificates import CertificateError, for_channel, read
from batchyard.common.pem import CertificateFiles
from batchyard.v1 import (
    ApiError,
    Batch,
    BatchServiceStub,
    BatchStatus,
    CancelBatchRequest,
    CreateBatchRequest,
    DownloadFileRequest,
    File,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListBatchesResponse,
    ListFilesRequest,
    ListFilesResponse,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
    WatchBatchRequest,
)

ENDED = frozenset(
    {
        BatchStatus.BATCH_STATUS_COMPLETED,
        BatchStatus.BATCH_STATUS_FAILED,
        BatchStatus.BATCH_STATUS_EXPIRED,
        BatchStatus.BATCH_STATUS_CANCELLED,
    }
)

_CALL_SECONDS = 75.0  # a bit more than the service itself allows a call
_AWAY_SECONDS = 10.0  # how long a service may be away during a call
_RESTART_SECONDS = 300.0  # ... and while a batch is followed
_FIRST_WAIT, _MOST_WAIT = 0.25, 5.0  # seconds
# A service that stops cancels the calls that come before its goodbye has arrived.
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_UNSURE = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
_OPTIONS = (
    *channels.OPTIONS,
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5000),
)

T = TypeVar("T")
Note = Callable[[str], None]


class CallError(RunError):
    """A call failed; the text is the service's own message, or what is wrong with the way to it.

    `passing`: the service is away, and may come back. `unsure`: what was asked for may have been done. `code` is
    gRPC's.
    """

    def __init__(self, code: grpc.StatusCode, message: str, advice: str = "", *, lasting: bool = False) -> None:
        super().__init__(plain(message), advice)
        self.code = code
        self.passing = code in _PASSING and not lasting
        self.unsure = code in _UNSURE


class Patience:
    """How long the service may be away: waits grow from a quarter of a second to 5, within `seconds` of the first."""

    def __init__(self, seconds: float, note: Note) -> None:
        self._seconds = seconds
        self._note = note
        self._delay = _FIRST_WAIT
        self._end: float | None = None

    def wait(self, error: CallError) -> None:
        """Waits before the next try; raises `error` where another one can't help, or time is up."""
        begins = self._end is None
        end = self._end = self._end or monotonic() + self._seconds
        left = end - monotonic()
        if not error.passing or left <= 0:
            raise error
        if begins:
            self._note(f"{error}; trying again")
        sleep(min(left, self._delay * uniform(0.5, 1)))  # noqa: S311 - jitter
        self._delay = min(2 * self._delay, _MOST_WAIT)


class Client:
    """The calls; each raises CallError. `provider` may be empty; `patience` (seconds) replaces both usual bounds."""

    def __init__(
        self,
        channel: grpc.Channel,
        address: str,
        files: CertificateFiles,
        key: str | None,
        provider: str,
        patience: float | None,
        note: Note,
    ) -> None:
        self._files = files
        self.provider = provider
        self._stub = BatchServiceStub(channel)
        self._admin = AdminServiceStub(channel)
        self._address = address
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._seconds = patience
        self._note = note

    def upload(
        self, pieces: Iterable[bytes], metadata: UploadFileMetadata, check: Callable[[str], None] = lambda _: None
    ) -> File:
        """Stores a file; tried once. What `pieces` raises as OSError or RunError is raised, and nothing is kept then.

        Before the first piece is sent, `check` is told the bounds of inputs as the service says them in `BOUNDS`, and
        may raise.
        """
        broken: list[Exception] = []
        checked = Event()
        try:
            with self._translated():
                messages = _upload_messages(pieces, metadata, broken, checked)
                call = self._stub.UploadFile.future(messages, metadata=self._metadata)
                try:
                    check(str(dict(call.initial_metadata() or ()).get(BOUNDS, "")))
                    checked.set()
                    file: File = call.result().file
                    return file
                finally:
                    call.cancel()
                    checked.set()
        except CallError:
            if broken:
                raise broken[0] from None
            raise

    def create(self, request: CreateBatchRequest) -> Batch:
        """Starts a batch; the request's `idempotency_key` keeps a second try from starting another."""
        response, call = self._call(self._stub.CreateBatch.with_call, request)
        if note := dict(call.initial_metadata() or ()).get(NOTE):
            self._note(str(note))
        batch: Batch = response.batch
        return batch

    def batch(self, batch_id: str) -> Batch:
        return self._call(self._stub.GetBatch, GetBatchRequest(provider=self.provider, batch_id=batch_id)).batch

    def cancel(self, batch_id: str) -> Batch:
        return self._call(self._stub.CancelBatch, CancelBatchRequest(provider=self.provider, batch_id=batch_id)).batch

    def file(self, file_id: str) -> File:
        return self._call(self._stub.GetFile, GetFileRequest(provider=self.provider, file_id=file_id)).file

    def batches(self, after: str, limit: int) -> ListBatchesResponse:
        """A page, newest first."""
        request = ListBatchesRequest(provider=self.provider, after=after, limit=limit)
        return self._call(self._stub.ListBatches, request)

    def files(self, after: str, limit: int) -> ListFilesResponse:
        """A page, newest first."""
        return self._call(self._stub.ListFiles, ListFilesRequest(provider=self.provider, after=after, limit=limit))

    def create_key(self, request: CreateKeyRequest) -> CreateKeyResponse:
        """Makes a key; tried once, since a second try would make another."""
        return self._once(self._admin.CreateKey, request)

    def keys(self, tenant: str, after: str, limit: int) -> ListKeysResponse:
        """A page: the configuration's, then the others, newest first."""
        return self._call(self._admin.ListKeys, ListKeysRequest(tenant=tenant, after=after, limit=limit))

    def rotate_key(self, key_id: str, grace_seconds: int) -> RotateKeyResponse:
        """Gives a key another secret; tried once, since a second try would end the grace of the first secret."""
        return self._once(self._admin.RotateKey, RotateKeyRequest(key_id=key_id, grace_seconds=grace_seconds))

    def revoke_key(self, key_id: str) -> Key:
        return self._call(self._admin.RevokeKey, RevokeKeyRequest(key_id=key_id)).key

    def watch(self, batch_id: str) -> Iterator[Batch]:
        """The batch as it is, then at each change, until it has ended; a watch that breaks is begun again."""
        patience = self._patience(_AWAY_SECONDS)
        request = WatchBatchRequest(provider=self.provider, batch_id=batch_id)
        seen = None
        while seen is None or seen.status not in ENDED:
            try:
                for message in self._stream(self._stub.WatchBatch, request):
                    patience = self._patience(_RESTART_SECONDS)
                    if message.batch != seen:
                        yield (seen := message.batch)
                if seen is None or seen.status not in ENDED:
                    raise CallError(grpc.StatusCode.UNKNOWN, "the service ended the watch before the batch had ended")
            except CallError as error:
                patience.wait(error)

    def download(self, file: File) -> Iterator[bytes]:
        """The content in pieces; a download that breaks is resumed where it broke."""
        patience = self._patience(_AWAY_SECONDS)
        done = 0
        while done < file.bytes:
            request = DownloadFileRequest(provider=self.provider, file_id=file.id, read_offset=done)
            try:
                for message in self._stream(self._stub.DownloadFile, request):
                    if message.data:
                        patience = self._patience(_AWAY_SECONDS)
                        done += len(message.data)
                        yield message.data
                if done != file.bytes:
                    raise CallError(grpc.StatusCode.DATA_LOSS, f"{file.id} ended after {done} of {file.bytes} bytes")
            except CallError as error:
                patience.wait(error)

    def _patience(self, usual: float) -> Patience:
        return Patience(usual if self._seconds is None else self._seconds, self._note)

    def _call(self, method: Callable[..., T], request: Any) -> T:
        patience = self._patience(_AWAY_SECONDS)
        while True:
            try:
                return self._once(method, request)
            except CallError as error:
                patience.wait(error)

    def _once(self, method: Callable[..., T], request: Any) -> T:
        with self._translated():
            return method(request, timeout=_CALL_SECONDS, metadata=self._metadata)

    def _stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        with self._translated():
            call = method(request, metadata=self._metadata)
            try:
                yield from call
            finally:
                call.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _failure(error, self._address, self._files) from None


@contextmanager
def connected(
    address: str, files: CertificateFiles, key: str | None, provider: str, patience: float | None, note: Note
) -> Iterator[Client]:
    """A client of the service at `address`, over a channel of its own, in clear text where `files` has no CA.

    `note` hears of second tries. Raises RunError for files that can't be used.
    """
    with _channel(address, files) as channel:
        yield Client(channel, address, files, key, provider, patience, note)


def _channel(address: str, files: CertificateFiles) -> grpc.Channel:
    if files.ca is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    try:
        return grpc.secure_channel(address, for_channel(files, read(files)), options=_OPTIONS)
    except CertificateError as error:
        raise RunError(str(error)) from None


def _upload_messages(
    pieces: Iterable[bytes], metadata: UploadFileMetadata, broken: list[Exception], checked: Event
) -> Iterator[UploadFileRequest]:
    """A whole upload; one without its finish where `pieces` raises, since gRPC would log that with a traceback.

    The pieces wait until it was `checked`.
    """
    yield UploadFileRequest(metadata=metadata)
    checked.wait()
    size, digest = 0, hashlib.sha256()
    try:
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
            yield UploadFileRequest(data=piece)
    except (OSError, RunError) as error:
        broken.append(error)
    else:
        yield UploadFileRequest(finish=UploadFileFinish(size=size, sha256=digest.digest()))


def _failure(error: Any, address: str, files: CertificateFiles) -> CallError:
    code, trailer = error.code(), dict(error.trailing_metadata() or ())
    api = ApiError()
    details = status_pb2.Status.FromString(trailer.get(DETAILS, b"")).details
    if any(detail.Unpack(api) for detail in details):
        message = api.message
    elif code in _PASSING:
        found = diagnose(address, files)
        reason = (error.details() or code.name).rpartition(": ")[2]  # before it, every address that was tried
        message = f"no answer from the service at {address}: {found.wrong if found else reason}"
        if found:
            return CallError(code, message, found.advice, lasting=found.lasting)
    else:
        message = f"the service at {address} failed: {code.name}: {error.details()}"
    request_id = trailer.get("x-request-id")
    return CallError(code, f"{message} (request id {request_id})" if request_id else message)
