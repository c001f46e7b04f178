"""Asks a URL again and again until its stdin ends, then prints how many milliseconds the longest answer took.

A process of its own, so that nobody else's work is taken for a stall. `python -m tests.bench.polling HOST PORT PATH`
"""

import http.client
import select
import sys
from time import perf_counter

_PAUSE_SECONDS = 0.002


def main() -> None:
    host, port, path = sys.argv[1:]
    connection = http.client.HTTPConnection(host, int(port))
    longest = 0.0
    print("polling", flush=True)
    while not select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
        began = perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} was answered {answer.status}")
        longest = max(longest, perf_counter() - began)
    print(longest * 1000, flush=True)


if __name__ == "__main__":
    main()
