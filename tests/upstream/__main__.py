"""Runs a fake in a process of its own, which keeps nothing of what it is sent; stdout's first line says where."""

import argparse
import asyncio

from tests.upstream.azure import fake_azure
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--kind", choices=["openai", "azure"], required=True)
    parser.add_argument("--content-bytes", type=int, metavar="N", help="let every file's content be N made-up bytes")
    return parser.parse_args()


async def _serve(given: argparse.Namespace) -> None:
    opened = {"openai": fake_openai, "azure": fake_azure}[given.kind]
    async with opened(Quirks(discard=True, content_bytes=given.content_bytes)) as fake:
        print(f"upstream on {fake.api_base.removesuffix('/v1')}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
