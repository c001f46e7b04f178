"""Certificates for tests, as an operator would have them in files."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HERE = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_DAY = timedelta(days=1)


class Pair(NamedTuple):
    """A certificate and its key, in PEM."""

    cert: bytes
    key: bytes


@dataclass(frozen=True)
class Identity:
    """Where a certificate and its key lie."""

    cert: Path
    key: Path

    def write(self, pair: Pair) -> None:
        """Puts another pair there, each file whole at once, as a careful operator does."""
        for path, content in zip((self.cert, self.key), pair, strict=True):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.rename(path)


class Authority:
    """Signs certificates; its own is in the file `ca`, all files in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        own = _unsigned(self._name, self._name, self._key, self._key)
        own = own.add_extension(x509.BasicConstraints(True, None), critical=True).add_extension(_SIGNS, critical=True)
        self.pem = _pem(own.sign(self._key, hashes.SHA256()))
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self.pem)

    def pair(self, name: str, password: bytes = b"") -> Pair:
        """A new certificate of `name`, good for localhost; its key is encrypted with the password, if there is one."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _unsigned(_name(name), self._name, key, self._key).add_extension(_HERE, critical=False)
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        return Pair(_pem(certificate.sign(self._key, hashes.SHA256())), private)

    def identity(self, name: str) -> Identity:
        """A new certificate in files."""
        found = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        found.write(self.pair(name))
        return found

    def context(self, client: Identity | None = None) -> ssl.SSLContext:
        """What a client trusts that trusts this authority alone, and shows."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if client:
            context.load_cert_chain(client.cert, client.key)
        return context


def name_of(der: bytes) -> str:
    """The common name in a certificate."""
    (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, issuers: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    number, now = x509.random_serial_number(), datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, name, key.public_key(), number, now - _DAY, now + _DAY)
    ours = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers.public_key())
    return builder.add_extension(ours, critical=False).add_extension(theirs, critical=False)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
