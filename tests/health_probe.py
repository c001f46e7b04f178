"""Asks a server for its health over one connection until standard input ends: `python -m tests.health_probe PORT`.

A process of its own, so that nothing but the server can hold it up. At the end it writes one JSON object: `probes`,
`slowest` in seconds, and each of the `stalls`, an answer that took more than `STALL` seconds, as [time, seconds].
"""

import json
import select
import socket
import sys
from time import perf_counter, time

STALL = 0.25
_EVERY = 0.05
_REQUEST = b"GET /health/liveliness HTTP/1.1\r\nHost: probe\r\n\r\n"


def main(port: int) -> None:
    stalls: list[tuple[float, float]] = []
    probes, slowest = 0, 0.0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not select.select([sys.stdin], [], [], _EVERY)[0]:
            began = perf_counter()
            connection.sendall(_REQUEST)
            head = connection.recv(65536)
            took = perf_counter() - began
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"no health: {head[:200]!r}")
            probes, slowest = probes + 1, max(slowest, took)
            if took > STALL:
                stalls.append((time(), took))
    print(json.dumps({"probes": probes, "slowest": slowest, "stalls": stalls}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
