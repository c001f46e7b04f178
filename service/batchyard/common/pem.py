"""Which files have certificates; what reads them is in `certificates`, which loads gRPC."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files: our certificate chain and its key, both or neither, and what the other side is verified against."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
