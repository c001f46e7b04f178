import asyncio
from collections.abc import AsyncIterator

from tests.harness import until

from .conftest import FORM, Door, form


async def test_probes_need_no_key_and_both_say_yes(door: Door) -> None:
    for path, word in (("liveliness", "alive"), ("liveness", "alive"), ("readiness", "ready")):
        answer = await door.rest.get(f"/health/{path}", headers={"authorization": ""})
        assert (answer.status_code, answer.json()) == (200, {"status": word})


async def test_a_service_that_drains_is_alive_and_not_ready_and_finishes_its_uploads(door: Door) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        whole = form(("purpose", "user_data"), ("file", b"x" * (1 << 20), "a.bin"))
        yield whole[:-100]
        begun.set()
        await end.wait()
        yield whole[-100:]

    async def readiness() -> int:
        return (await door.rest.get("/health/readiness")).status_code

    upload = asyncio.create_task(door.rest.post("/v1/files", content=pieces(), headers=FORM))
    await begun.wait()
    await until(lambda: asyncio.to_thread(door.kept), bool)
    assert await readiness() == 200
    drain = asyncio.create_task(door.server.drain(60))
    await until(readiness, lambda status: status == 503)
    assert (await door.rest.get("/health/liveliness")).status_code == 200
    assert not upload.done()
    end.set()
    assert (await upload).json()["bytes"] == 1 << 20
    await drain
    assert await readiness() == 503
    assert (await door.rest.get("/health/liveliness")).status_code == 200
