"""The two routes that carry bytes: multipart upload and content download. Memory stays constant whatever the size."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Send

from batchyard.common.calls import Caller, CallError, Metadata, Upload
from batchyard.common.http.disposition import attachment
from batchyard.common.http.forms import FormError, FormReader, Part, field_name, filename, media_type, transfer_encoding
from batchyard.common.http.middleware import ClientLeft
from batchyard.common.jsonmap import writer
from batchyard.shim.errors import RequestError
from batchyard.shim.inbound import (
    Body,
    Bounds,
    check_coding,
    metadata_of,
    models_of,
    provider_of,
    while_connected,
    within,
)
from batchyard.shim.transcoding import SERVICE, Binding, rules
from batchyard.v1 import DownloadFileRequest, FileContentInfo, UploadFileFinish, UploadFileMetadata, UploadFileRequest

Opened = tuple[FileContentInfo, AsyncIterator[Any]]
log = logging.getLogger("batchyard.shim")

PIECE, MOST_PIECE, MAX_FIELD, MAX_FIELDS = 192 * 1024, 512 * 1024, 64 * 1024, 64

_UPLOAD, _DOWNLOAD = SERVICE.methods_by_name["UploadFile"], SERVICE.methods_by_name["DownloadFile"]
_PREFIXES = [path.removesuffix("/files") for _, path, _ in rules(SERVICE.methods_by_name["ListFiles"])]
_LAST_BYTE = 2**63 - 1
_FORM_FIELDS = re.compile(
    r"(purpose)|(?:custom_llm_)?(provider)|(model)|(target_model_names)(?:\[\])?"
    r"|expires_after(?:(\[)|\.)(anchor|seconds)(?(5)\])"
)


class Files:
    """Upload and download; a transfer ends where either side does nothing for `bounds.idle` seconds."""

    def __init__(self, caller: Caller, bounds: Bounds) -> None:
        self._caller = caller
        self._bounds = bounds
        self._write = writer(GetMessageClass(_UPLOAD.output_type))

    def bindings(self) -> Iterator[Binding]:
        """Both routes in all their forms."""
        for prefix in _PREFIXES:
            yield Binding("POST", f"{prefix}/files", "UploadFile", self.upload)
            yield Binding("GET", f"{prefix}/files/{{file_id}}/content", "DownloadFile", self.download)

    async def upload(self, request: Request) -> ASGIApp:
        """Stream a form to the service; nothing is kept of one that is wrong or that ends early."""
        body = Body(request, self._bounds)
        try:
            form, metadata, provider = _form(request), metadata_of(request), provider_of(request)
            async with self._caller.upload(_UPLOAD, metadata=metadata) as call:
                await within(self._bounds.deadline, call.accepted())
                await UploadForm(call, request, provider, self._bounds.idle, form).forward(body)
                stored = await while_connected(request.receive, within(self._bounds.deadline, call.result()))
                return JSONResponse(self._write(stored)["file"])
        except (RequestError, CallError):
            await body.drain()
            raise

    async def download(self, request: Request) -> ASGIApp:
        """Stream a file's content, or the one range of it that is asked for."""
        return lambda scope, receive, send: while_connected(receive, self._respond(request, send))

    async def _respond(self, request: Request, send: Send) -> None:
        metadata, span = metadata_of(request), _span(request.headers.get("range", ""))
        file_id, models = request.path_params["file_id"], models_of(request)
        whole = DownloadFileRequest(provider=provider_of(request), file_id=file_id, models=models)
        if span and (tag := request.headers.get("if-range")):
            async with self._opened(whole, metadata) as (info, _):
                span = span if tag == _etag(info) and not tag.startswith("W/") else None
        asked = DownloadFileRequest.FromString(whole.SerializeToString())
        asked.read_offset, asked.read_limit = span or (0, 0)
        try:
            async with self._opened(asked, metadata) as opened:
                await self._send(request, opened, send, partial=span is not None)
        except CallError as error:
            if error.code is not StatusCode.OUT_OF_RANGE:
                raise
            async with self._opened(whole, metadata) as (info, _):
                raise _unsatisfied(info) from error

    @asynccontextmanager
    async def _opened(self, asked: DownloadFileRequest, metadata: Metadata) -> AsyncIterator[Opened]:
        async with self._caller.download(_DOWNLOAD, asked, metadata=metadata) as messages:
            first = await within(self._bounds.deadline, anext(messages, None))
            if first is None or not first.HasField("info"):
                raise CallError(StatusCode.INTERNAL, "a download begins with its info")
            yield first.info, messages

    async def _send(self, request: Request, opened: Opened, send: Send, *, partial: bool) -> None:
        info, messages = opened
        headers = [(name.encode(), value.encode("latin-1")) for name, value in _headers(info, partial).items()]
        await send({"type": "http.response.start", "status": 206 if partial else 200, "headers": headers})
        sent = 0
        try:
            while (piece := await within(self._bounds.idle, _next_piece(messages))) is not None:
                sent += len(piece)
                async with asyncio.timeout(self._bounds.idle):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            if info.HasField("length") and sent != info.length:
                raise CallError(StatusCode.DATA_LOSS, f"{sent} of {info.length} bytes came")
        except TimeoutError as error:
            raise ClientLeft from error
        except CallError as error:
            # Left unfinished, so that the server breaks the connection: a short body must not look whole.
            log.error("a download broke off", extra={"code": error.code.name, "request_id": request.state.request_id})
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class UploadForm:
    """Passes a form on to an upload: metadata when the file begins, its data, late fields, and finish last."""

    def __init__(self, call: Upload, request: Request, provider: str, idle: float, form: FormReader) -> None:
        self._call = call
        self._request = request
        self._idle = idle
        self._form = form
        self._metadata = UploadFileMetadata(provider=provider)
        self._targets = list[str]()
        self._given, self._name, self._value = dict[str, str](), "", bytearray()
        self._has_file, self._late, self._size = False, False, 0

    async def forward(self, body: Body) -> None:
        """Read the body to its end; RequestError where the form is not a whole and valid upload."""
        try:
            while piece := await body.read():
                for event in self._form.feed(piece):
                    await self._take(event)
            self._form.close()
        except (FormError, UnicodeError) as error:
            raise RequestError(400, "We could not parse the form of your request: it is wrong or cut off.") from error
        for name, found in (("file", self._has_file), ("purpose", self._metadata.purpose)):
            if not found:
                raise RequestError(400, f"'{name}' is a required property", param=name)
        if self._late:
            await self._send(UploadFileRequest(metadata=self._metadata))
        await self._send(UploadFileRequest(finish=UploadFileFinish(size=self._size)))

    async def _take(self, event: Any) -> None:
        if isinstance(event, Part):
            await self._begin(event)
        elif event is None:
            await self._end()
        elif self._name == "file":
            await self._send_data(event, PIECE)
        else:
            self._value += event
            if len(self._value) > MAX_FIELD:
                raise _refusal(self._name, f"it is longer than {MAX_FIELD} bytes.")

    async def _begin(self, segment: Any) -> None:
        self._name, self._value = field_name(segment), bytearray()
        if transfer_encoding(segment):
            raise _refusal(self._name, "its bytes must come as they are, without a Content-Transfer-Encoding.")
        if self._name == "file":
            if self._has_file or media_type(segment).lower() == "multipart/mixed":
                raise _refusal("file", "a form holds one file.")
            self._has_file = True
            self._metadata.filename = filename(segment)
            self._metadata.content_type = media_type(segment)
            if (room := self._form.room()) is not None:
                self._metadata.size_hint = room
            self._metadata.models.extend(self._models())
            await self._send(UploadFileRequest(metadata=self._metadata))
        elif not _FORM_FIELDS.fullmatch(self._name):
            text = f"Unknown parameter: '{self._name}'."
            raise RequestError(400, text, param=self._name, code="unknown_parameter")

    async def _end(self) -> None:
        if self._name == "file":
            await self._send_data(b"", 1)
        else:
            self._set(self._value.decode())
            self._late = self._has_file

    def _set(self, text: str) -> None:
        match = _FORM_FIELDS.fullmatch(self._name)
        field = match[match.lastindex or 0] if match else ""
        if field == "target_model_names":
            self._targets.append(text)
            self._check_models()
            return
        before = self._metadata.provider if field == "provider" else self._given.setdefault(field, text)
        if text != before and (before or self._has_file or field != "provider"):
            raise _refusal(field, "it is given twice with two values, or comes after the file.")
        if field == "seconds":
            if not re.fullmatch("-?[0-9]{1,18}", text):
                raise _refusal(self._name, "expected an integer.")
            self._metadata.expires_after.seconds = int(text)
        elif field == "anchor":
            self._metadata.expires_after.anchor = text
        elif field == "model":
            self._check_models()
        else:
            setattr(self._metadata, field, text)

    def _models(self) -> list[str]:
        return models_of(self._request, self._given.get("model", ""), self._targets)

    def _check_models(self) -> None:
        if self._models() != list(self._metadata.models) and self._has_file:
            raise _refusal(self._name, "it is given twice with two values, or comes after the file.")

    async def _send_data(self, data: bytes, at_least: int) -> None:
        if self._value or len(data) < at_least:  # a large piece goes as it is, without a copy
            self._value += data
            data = bytes(self._value) if len(self._value) >= at_least else b""
            del self._value[: len(data)]
        self._size += len(data)
        for start in range(0, len(data), MOST_PIECE):
            await self._send(UploadFileRequest(data=data[start : start + MOST_PIECE]))

    async def _send(self, message: UploadFileRequest) -> None:
        await within(self._idle, self._call.write(message))


def _refusal(name: str, problem: str) -> RequestError:
    return RequestError(400, f"Invalid '{name}': {problem}", param=name, code="invalid_value")


def _form(request: Request) -> FormReader:
    check_coding(request)
    try:
        return FormReader(request.headers, MAX_FIELDS + 1)
    except ValueError:
        text = "The request must be multipart/form-data, with a boundary of 1 to 70 characters."
        raise RequestError(400, text) from None


def _span(header: str) -> tuple[int, int] | None:
    """One byte range as (offset, limit), in DownloadFileRequest's terms; None for what is to be ignored."""
    match = re.fullmatch("bytes=([0-9]{0,19})-([0-9]{0,19})", header.strip(), re.IGNORECASE)
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return (-min(int(last), _LAST_BYTE) or _LAST_BYTE, 0)
    if last and int(last) < int(first):
        return None
    limit = int(last) - int(first) + 1 if last else 0
    return min(int(first), _LAST_BYTE), min(limit, _LAST_BYTE)


async def _next_piece(messages: AsyncIterator[Any]) -> bytes | None:
    """The next of a download's bytes, without the message, whose copy would be held with them; None at its end."""
    message = await anext(messages, None)
    return None if message is None else bytes(message.data)


def _headers(info: FileContentInfo, partial: bool) -> dict[str, str]:
    headers = {
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
        "content-disposition": attachment(info.filename),
    }
    if info.etag:
        headers["etag"] = _etag(info)
    if info.HasField("length"):
        headers["content-length"] = str(info.length)
    if partial:
        if not info.length:
            raise _unsatisfied(info)
        headers["content-range"] = f"bytes {info.offset}-{info.offset + info.length - 1}/{_total(info)}"
    return headers


def _unsatisfied(info: FileContentInfo) -> RequestError:
    error = RequestError(416, "The requested range is not within the file.")
    error.headers["content-range"] = f"bytes */{_total(info)}"
    return error


def _total(info: FileContentInfo) -> str:
    return str(info.total_size) if info.HasField("total_size") else "*"


def _etag(info: FileContentInfo) -> str:
    return info.etag if info.etag.endswith('"') else f'"{info.etag}"'
