"""What a host in the settings means for this machine."""

import ipaddress
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: localhost, 127.0.0.0/8 and ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def leads_to(url: str, host: str, port: int) -> bool:
    """Whether a valid URL leads to what listens on `host` and `port` of this machine (0: a port that isn't known)."""
    parts = urlsplit(url)
    there = parts.hostname or ""
    here = is_loopback(there) or there in {"0.0.0.0", "::", host.lower()}  # noqa: S104 - where it leads, not who listens
    return here and (parts.port or _PORTS[parts.scheme]) == port
