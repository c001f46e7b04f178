"""What stands at an address that gRPC can't talk to: nothing, a REST port, TLS where clear text was spoken, or back."""

import socket
import ssl
from typing import NamedTuple

from batchyard.common.pem import CertificateFiles

_SECONDS = 2.0
_ASK = b"GET /health/liveliness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_HTTP1 = b"HTTP/1."
_FRAME = b"\0"  # how a frame of HTTP/2 begins: with its length, which is small here


class Diagnosis(NamedTuple):
    """What is wrong and what to do about it; `lasting`: to try again as it was can't help."""

    wrong: str
    advice: str
    lasting: bool


def diagnose(address: str, files: CertificateFiles) -> Diagnosis | None:
    """Asks whoever listens at `address` (HOST:PORT or unix:PATH), within a few seconds; None where nothing is wrong.

    `files` are those that gRPC has used: without a CA it spoke clear text.
    """
    try:
        return _speaking_tls(address, files) if files.ca else _speaking_clearly(address)
    except socket.gaierror:
        host = address.rpartition(":")[0]
        return Diagnosis(
            f"there is no host '{host}'", "Check its name in --server or $BATCHYARD_SERVICE_ADDRESS.", False
        )
    except OSError as error:
        return Diagnosis(error.strerror or str(error) or "no answer in time", _START, False)


_START = (
    "If none runs, start one (`make run`, or `batchyard serve`); if it is elsewhere, name its gRPC port with --server "
    "HOST:PORT or $BATCHYARD_SERVICE_ADDRESS."
)
_REST = Diagnosis(
    "this is a REST port, and the command speaks gRPC",
    "Name the gRPC port with --server: 50051 unless it was configured, and in the first lines that the service logs.",
    True,
)


def _speaking_clearly(address: str) -> Diagnosis | None:
    with _connected(address) as connection:
        answer = _answer(connection)
    if answer.startswith(_HTTP1):
        return _REST
    if answer[:1] == _FRAME:
        return None
    context = _trusting()
    try:
        with _connected(address) as connection, context.wrap_socket(connection, server_hostname="localhost") as secure:
            rest = secure.selected_alpn_protocol() != "h2"
    except OSError:
        return None
    if rest:
        return Diagnosis(f"{_REST.wrong}, over TLS", f"{_REST.advice} It will want --ca-file too.", True)
    return Diagnosis(
        "it speaks TLS, and the command clear text",
        "Name the CA that signed its certificate with --ca-file FILE or $BATCHYARD_TLS__CA_FILE.",
        True,
    )


def _speaking_tls(address: str, files: CertificateFiles) -> Diagnosis | None:
    with _connected(address) as connection:
        answer = _answer(connection)
    if answer.startswith(_HTTP1):
        return _REST
    if answer[:1] == _FRAME:
        advice = "Leave out --ca-file and $BATCHYARD_TLS__CA_FILE, or let the service have a certificate."
        return Diagnosis("it speaks clear text, and the command TLS", advice, True)
    return _handshaken(address, files)


def _handshaken(address: str, files: CertificateFiles) -> Diagnosis | None:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    if files.cert:
        context.load_cert_chain(files.cert, files.key)
    host = "localhost" if address.startswith("unix:") else address.rpartition(":")[0].strip("[]")
    try:
        with _connected(address) as connection, context.wrap_socket(connection, server_hostname=host) as secure:
            if secure.selected_alpn_protocol() != "h2":
                return Diagnosis(f"{_REST.wrong}, over TLS", _REST.advice, True)
            greeted = _greets(secure)
    except ssl.SSLCertVerificationError as error:
        advice = "Name the CA that signed it with --ca-file, and the host as it is in the certificate with --server."
        return Diagnosis(f"its certificate does not pass: {error.verify_message}", advice, True)
    except ssl.SSLError:
        return None
    if greeted:
        return None
    wanted = "it refuses the certificate" if files.cert else "it wants a client's certificate"
    return Diagnosis(wanted, "Name one that it knows with --client-cert-file and --client-key-file.", True)


def _greets(secure: ssl.SSLSocket) -> bool:
    """Whether a server of HTTP/2 sends its settings: who misses a certificate of ours hangs up instead."""
    try:
        return bool(secure.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_SECONDS)
        try:
            connection.connect(address.removeprefix("unix:").removeprefix("//"))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _SECONDS)


def _answer(connection: socket.socket) -> bytes:
    """The first bytes that come for a request in HTTP/1.1; none where the other side hangs up or says nothing."""
    try:
        connection.sendall(_ASK)
        return connection.recv(64)
    except OSError:
        return b""


def _trusting() -> ssl.SSLContext:
    """For a look at who answers, over which nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
