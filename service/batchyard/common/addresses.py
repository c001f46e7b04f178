"""Hosts and ports as URLs and gRPC targets write them."""


def address(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """The host under which this machine reaches a listener on `host`: loopback for a wildcard."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where it leads, not who listens
