"""Large files up and down, to a provider and into our own store: how fast, in how much memory, at what cost."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.bench import asking, provider
from tests.bench.files import Copy, Files
from tests.bench.measure import CONTROL, RISE, SPEED, Peak, Row, compared, cpu_seconds, on_each, units
from tests.bench.sides import TENANT_KEY, Side, sides
from tests.processes import Process, process

LINE_BYTES = 700
AT_ONCE = 8

Watched = Mapping[str, tuple[Process, ...]]

_COST = "CPU s a GB"


async def figures(folder: Path, rounds: int, size: int) -> list[Row]:
    """Moves batch inputs of `size` bytes, `rounds` times each way, and several of half of that at once."""
    data = content(size)
    with (
        process(folder / "provider.log", "tests.bench.provider", str(len(data))) as upstream,
        process(folder / "copy.log", "tests.bench.controls", "copy", str(folder / "copied")) as copy,
    ):
        port = await upstream.port("provider on")
        async with sides(folder, port, echo=True) as both:
            for side in both:  # what a first call of any size loads
                for prefix in ("/v1", "/openai/v1"):
                    await Files(side.rest, data[: 1000 * LINE_BYTES], asking.key(TENANT_KEY), prefix).upload()
            remote: dict[str, Files | Copy] = {
                CONTROL: Files(port, data, asking.key(provider.KEY)),
                **through(both, data),
            }
            stored: dict[str, Files | Copy] = {CONTROL: Copy(await copy.port("copy on"), data)}
            stored |= {side.name: Files(side.rest, data, asking.key(TENANT_KEY)) for side in both}
            half = content(size // 2)
            many = {CONTROL: Files(port, half, asking.key(provider.KEY)), **through(both, half)}
            watched = {CONTROL: (upstream,), **{side.name: side.processes for side in both}}
            own = {CONTROL: (copy,)}
            return [
                *await moved("upload to a provider", rounds, remote, watched, up=True),
                *await moved("download from a provider", rounds, remote, watched, up=False),
                *await moved("upload, validated and stored", rounds, stored, watched | own, up=True),
                *await moved("download, stored", rounds, stored, watched | own, up=False),
                *await together(rounds, many, watched),
            ]


def content(size: int) -> bytes:
    """A batch input of whole lines of LINE_BYTES each, of `size` bytes at most."""
    line = (
        '{"custom_id":"request-%08d","method":"POST","url":"/v1/chat/completions",'
        '"body":{"model":"bench","messages":[{"role":"user","content":"%s"}]}}\n'
    )
    filler = "x" * (LINE_BYTES - len(line % (0, "")))
    return b"".join((line % (number, filler)).encode() for number in range(size // LINE_BYTES))


def through(both: Iterable[Side], data: bytes) -> dict[str, Files]:
    """The way to the provider through each side."""
    return {side.name: Files(side.rest, data, asking.key(TENANT_KEY), "/openai/v1") for side in both}


async def moved(name: str, rounds: int, files: Mapping[str, Files | Copy], watched: Watched, *, up: bool) -> list[Row]:
    """One way; the memory of all processes is watched over all rounds."""

    async def measure(side: str) -> tuple[float, float]:
        one, before = files[side], cpu_seconds(watched[side])
        took = await (one.upload() if up else one.download())
        return one.size / 1e6 / took, (cpu_seconds(watched[side]) - before) / one.size * 1e9

    peaks = {side: Peak(processes) for side, processes in watched.items()}
    rows = await compared(rounds, units(name, SPEED, _COST), on_each(measure, {side: side for side in files}))
    return [*rows, Row(name, RISE, {side: [peak.rise] for side, peak in peaks.items() if side != CONTROL})]


async def together(rounds: int, files: Mapping[str, Files], watched: Watched) -> list[Row]:
    """Several uploads at once, and the memory that they take together."""
    name = f"{AT_ONCE} uploads to a provider at once"
    peaks = {side: Peak(processes) for side, processes in watched.items()}
    rows = await compared(rounds, units(name, SPEED, "failures"), on_each(_at_once, files))
    return [*rows, Row(name, RISE, {side: [peak.rise] for side, peak in peaks.items() if side != CONTROL})]


async def _at_once(files: Files) -> tuple[float, float]:
    """The speed of all together, and how many failed."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    ended = await asyncio.gather(*(files.upload() for _ in range(AT_ONCE)), return_exceptions=True)
    took = loop.time() - began
    failed = [one for one in ended if isinstance(one, BaseException)]
    return (AT_ONCE - len(failed)) * files.size / 1e6 / took, len(failed)
