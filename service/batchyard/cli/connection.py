"""Which service, over what, with which key: as the options and the environment say."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import grpc

from batchyard.cli import options
from batchyard.cli.errors import RunError
from batchyard.common.pem import CertificateFiles
from batchyard.service.config.parsing import UnfitError, parse
from batchyard.service.config.types import TextFormat


def advice_on_keys(code: grpc.StatusCode, origin: str, command: str) -> str:
    """What to do about a key that is missing or does not do."""
    if code is grpc.StatusCode.UNAUTHENTICATED and not origin:
        return (
            " Set BATCHYARD_API_KEY, or name a file that has the key: --key-file FILE (under `make run` it is sk-1234)."
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f" The key is from {origin}; who runs the service knows the right one (under `make run` it is sk-1234)."
    if code is grpc.StatusCode.PERMISSION_DENIED and command == "keys":
        return f" Keys are made with the master key; this one is from {origin}."
    return ""


def address(given: argparse.Namespace, environ: Mapping[str, str]) -> str:
    variable = "BATCHYARD_SERVICE_ADDRESS"
    try:
        return given.server or options.address(environ.get(variable) or "localhost:50051")
    except argparse.ArgumentTypeError as unfit:
        raise RunError(f"{variable}: {unfit}") from None


def certificates(given: argparse.Namespace, environ: Mapping[str, str]) -> CertificateFiles:
    """The files for TLS; without a CA the service is called in clear text. Raises RunError."""
    named = (getattr(given, option) or environ.get(variable) for option, variable, _ in options.CERTIFICATES)
    ca, cert, key = (Path(name) if name else None for name in named)
    if bool(cert) != bool(key) or (cert and not ca):
        raise RunError("a client's certificate needs --ca-file, --client-cert-file and --client-key-file, all three")
    return CertificateFiles(cert=cert, key=key, ca=ca)


def key(given: argparse.Namespace, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The caller's key, from where no other user of the machine sees it, and where that is.

    Raises RunError for one that can't be sent.
    """
    where = str(given.key_file or "")
    found = given.key_file.read_text(errors="replace").strip() if given.key_file else None
    for variable in ("BATCHYARD_API_KEY", "BATCHYARD_MASTER_KEY"):
        if found is None and environ.get(variable):
            found, where = environ[variable], variable
    if found is None:
        return None, ""
    try:
        return str(parse(Annotated[str, TextFormat.SECRET], found, hidden=True)), where
    except UnfitError as unfit:
        raise RunError(f"{where}: {unfit}") from None
