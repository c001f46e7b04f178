"""Certificates and keys in PEM files, for either side of a connection; new connections follow the files' changes."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from batchyard.common.pem import CertificateFiles

log = logging.getLogger("batchyard.tls")


class CertificateError(Exception):
    """The files can't be used; the text says which and why, and has nothing that is in them."""


class Pem(NamedTuple):
    """What is in the files; None for one that there is not."""

    cert: bytes | None
    key: bytes | None
    ca: bytes | None


class ServerCertificates:
    """What a server shows to new connections, and verifies their certificates against if there is a `ca`.

    Making one raises CertificateError.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self.context = _LatestContext()
        """For an asyncio server."""
        self._files = files
        self.pem = self._fetched = read(files)
        self.take(self.pem)

    def take(self, pem: Pem) -> None:
        """From now on these. Raises CertificateError, and keeps those from before."""
        context = checked(self._files, pem, ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.verify_mode = ssl.CERT_REQUIRED if pem.ca else ssl.CERT_NONE
        self.context.latest, self.pem = context, pem

    def for_grpc(self) -> grpc.ServerCredentials:
        """For one port of a gRPC server."""
        self._fetched = self.pem
        required = self._files.ca is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(self.pem), self._fetch, required)

    def _fetch(self) -> Any:
        """What gRPC asks for at each connection, in a thread of its own: None where nothing is new."""
        pem = self.pem
        if pem is self._fetched:
            return None
        self._fetched = pem
        return _configuration(pem)


class _LatestContext(ssl.SSLContext):
    """Begins each connection with the `latest` context; sessions that began with an older one are not resumed."""

    latest: ssl.SSLContext

    def __new__(cls) -> "_LatestContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def wrap_bio(self, *given: Any, **more: Any) -> ssl.SSLObject:
        return self.latest.wrap_bio(*given, **more)


@asynccontextmanager
async def serving_with(
    files: CertificateFiles | None, name: str, every: float
) -> AsyncIterator[ServerCertificates | None]:
    """The certificates of the server `name`, as the files are until the context ends. Raises CertificateError."""
    if files is None:
        yield None
        return
    certificates = ServerCertificates(files)
    async with following(files, certificates.pem, name, every, certificates.take):
        yield certificates


@asynccontextmanager
async def following(
    files: CertificateFiles, used: Pem, name: str, every: float, take: Callable[[Pem], None]
) -> AsyncIterator[None]:
    """Gives `take` what is in the files when it is no longer what is `used`, until the context ends.

    The files are looked at each `every` seconds; a change counts when two looks have seen it, so that files which are
    being written are left alone. What `take` refuses (CertificateError) is logged, and the files are looked at again.
    """
    task = asyncio.create_task(_follow(files, used, name, every, take))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _follow(files: CertificateFiles, used: Pem, name: str, every: float, take: Callable[[Pem], None]) -> None:
    seen, complaint = used, ""
    while True:
        await asyncio.sleep(every)
        try:
            before, seen = seen, await asyncio.to_thread(read, files)
            if seen != before or seen == used:
                continue
            take(seen)
        except CertificateError as error:
            if complaint != (complaint := str(error)):
                log.warning("the new certificates can't be used, the old ones stay: %s", error, extra={"server": name})
        else:
            used, complaint = seen, ""
            log.info("new certificates", extra={"server": name})


def read(files: CertificateFiles) -> Pem:
    """What is in the files. Raises CertificateError."""
    return Pem(*map(_content, (files.cert, files.key, files.ca)))


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None


def checked(files: CertificateFiles, pem: Pem, protocol: int) -> ssl.SSLContext:
    """A context with what was read from the files. Raises CertificateError."""
    context = ssl.SSLContext(protocol)
    if files.cert and files.key:
        try:
            context.load_cert_chain(files.cert, files.key, password="")  # without one it would ask the terminal
        except (OSError, ValueError) as error:
            pair = f"{files.cert} and {files.key}"
            raise CertificateError(f"{pair} are not a certificate and its key ({_reason(error)})") from None
        if read(files) != pem:  # the context reads the files itself
            raise CertificateError(f"{files.cert} and {files.key} are changing")
    if pem.ca is not None:
        try:
            context.load_verify_locations(cadata=pem.ca.decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            raise CertificateError(f"{files.ca} has no certificates ({_reason(error)})") from None
    return context


def _reason(error: Exception) -> str:
    """OpenSSL's word for what is wrong: KEY_VALUES_MISMATCH."""
    return getattr(error, "reason", None) or type(error).__name__


def for_channel(files: CertificateFiles, pem: Pem) -> grpc.ChannelCredentials:
    """What a gRPC client trusts and shows. Raises CertificateError."""
    checked(files, pem, ssl.PROTOCOL_TLS_CLIENT)
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key or b"", pem.cert or b"")], pem.ca)
