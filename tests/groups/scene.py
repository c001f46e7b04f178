"""A front door before one model group, whose deployments fakes play, and what both sides of it saw."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any, Literal

from tests.deployments import QUICK, deployment_of
from tests.harness import chat_line, jsonl, until
from tests.rest.conftest import Door, batch_request, opened
from tests.upstream.azure import fake_azure
from tests.upstream.census import Census
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks
from tests.upstream.store import Upstream

from batchyard.common.metrics import Metrics
from batchyard.service.config.settings import Group, GroupSettings, Member, Quotas
from batchyard.v1 import Placement

Kind = Literal["openai", "azure"]
Line = dict[str, Any]

GROUP = "batch-gpt-4o-mini"
MODEL = "gpt-4o-mini"
HELD = Quirks(auto=False)
"""Batches move only when they are told."""
PACE = GroupSettings(backoff_seconds=0.05, max_backoff_seconds=0.4, probe_seconds=0.2)
_FAKES: Mapping[Kind, Any] = {"openai": fake_openai, "azure": fake_azure}


@dataclass
class Yard:
    """`folder` is where the service keeps its data; `census` counts what is at work at all fakes."""

    door: Door
    fakes: list[Upstream]
    census: Census
    folder: Path

    async def upload(self, lines: Iterable[Line]) -> str:
        return str((await self.door.upload(jsonl(lines)))["id"])

    async def create(self, lines: Iterable[Line], **members: Any) -> str:
        """The id of a new batch of these lines."""
        return str((await self.door.create(await self.upload(lines), **members))["id"])

    async def run(self, lines: Iterable[Line], **members: Any) -> dict[str, Any]:
        """A batch of these lines, when it has ended."""
        return await self.door.ended(await self.create(lines, **members))

    async def get(self, batch_id: str) -> dict[str, Any]:
        return dict((await self.door.rest.get(f"/v1/batches/{batch_id}")).json())

    async def seen(self, batch_id: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The batch as soon as it is good."""
        return await until(lambda: self.get(batch_id), good)

    async def placements(self, batch_id: str) -> Sequence[Placement]:
        return (await self.door.grpc.get(batch_id)).placements

    async def content(self, file_id: str | None, span: str = "") -> bytes:
        """The bytes of a file, or those of a range of it; none for no file."""
        if not file_id:
            return b""
        answer = await self.door.rest.get(f"/v1/files/{file_id}/content", headers={"range": span} if span else {})
        assert answer.status_code == (206 if span else 200), answer.text
        return answer.content

    async def results(self, batch: Mapping[str, Any]) -> tuple[list[Line], list[Line]]:
        """The lines of a batch's output and of its errors."""
        both = [await self.content(batch[name]) for name in ("output_file_id", "error_file_id")]
        output, errors = ([json.loads(line) for line in content.splitlines()] for content in both)
        return output, errors

    async def accounted(self, batch: Mapping[str, Any], lines: Iterable[Line]) -> tuple[list[Line], list[Line]]:
        """The results of a batch that has ended, which must have each line once, as its counts say."""
        output, errors = await self.results(batch)
        wanted = [line["custom_id"] for line in lines]
        assert Counter(line["custom_id"] for line in [*output, *errors]) == Counter(wanted)
        counts = batch["request_counts"]
        assert (counts["total"], counts["completed"]) == (len(wanted), len(output))
        assert {line["response"]["body"]["model"] for line in output} <= {GROUP}
        return output, errors

    def once(self) -> bool:
        """Whether no line was at work in two batches at once, or was executed twice."""
        executed = sum((fake.executed for fake in self.fakes), Counter[str]())
        return self.census.most <= 1 and max(executed.values(), default=0) <= 1

    async def cleaned(self) -> None:
        """Waits until no fake holds an input."""

        async def held() -> int:
            return sum(fake.inputs() for fake in self.fakes)

        await until(held, lambda count: count == 0)

    async def live(self, count: int) -> list[tuple[Upstream, str]]:
        """Waits until there are so many batches at the fakes that have not ended; each with its fake."""

        async def look() -> list[tuple[Upstream, str]]:
            return [(fake, batch["id"]) for fake in self.fakes for batch in fake.batches.values() if is_live(batch)]

        return await until(look, lambda found: len(found) == count)


@asynccontextmanager
async def scene(
    folder: Path,
    *kinds: Kind,
    quirks: Quirks | Sequence[Quirks] = Quirks(),  # noqa: B008
    members: Sequence[Mapping[str, Any]] = (),
    clock: Callable[[], float] = time,
    groups: Mapping[str, Any] = {},
    tenant_limits: Quotas = Quotas(),  # noqa: B008
    metrics: Metrics | None = None,
    **upstream: Any,
) -> AsyncIterator[Yard]:
    """A group of one member at a fake of each kind, two of Azure's where none is named.

    `quirks` are all fakes' or one by one, `members` what their members have beside names; `groups`, `tenant_limits`
    and `upstream` are settings.
    """
    kinds = kinds or ("azure", "azure")
    each = [quirks] * len(kinds) if isinstance(quirks, Quirks) else quirks
    async with AsyncExitStack() as stack:
        opening = [_FAKES[kind](one, key=f"sk-{at}") for at, (kind, one) in enumerate(zip(kinds, each, strict=True))]
        fakes = [await stack.enter_async_context(fake) for fake in opening]
        more: dict[str, Any] = {"upstream": replace(QUICK, **upstream), "groups": replace(PACE, **groups)}
        more["tenant_limits"] = tenant_limits
        settings = settings_of(list(zip(kinds, fakes, strict=True)), members) | more
        door = await stack.enter_async_context(opened(folder, clock=clock, metrics=metrics, **settings))
        yield Yard(door, fakes, Census(*fakes), folder)


def settings_of(
    fakes: Sequence[tuple[Kind, Upstream]], members: Sequence[Mapping[str, Any]] = (), group: str = GROUP
) -> dict[str, Any]:
    """Settings of nothing but a group over these fakes; the deployments are called by their kinds and numbers."""
    names = [f"{kind}-{at}" for at, (kind, _) in enumerate(fakes)]
    more = members or [{}] * len(fakes)
    found = [
        Member(**({"name": f"{name}/{MODEL}", "deployment": name, "model": MODEL} | dict(own)))
        for name, own in zip(names, more, strict=True)
    ]
    deployments = [deployment_of(kind, fake, name=name) for name, (kind, fake) in zip(names, fakes, strict=True)]
    return {
        "local": None,
        "default_provider": "groups",
        "deployments": tuple(deployments),
        "upstream": QUICK,
        "groups": PACE,
        "model_groups": (Group(name=group, members=tuple(found)),),
    }


def lines_of(count: int, batch: str = "", **body: Any) -> list[Line]:
    """Lines for the group, with custom_ids that begin with `batch`."""
    return [chat_line(f"{batch}line-{n}", f"question {n}", **{"model": GROUP} | body) for n in range(count)]


def is_live(batch: Mapping[str, Any]) -> bool:
    return batch["status"] not in {"completed", "failed", "expired", "cancelled"}


def inputs_of(fake: Upstream) -> list[bytes]:
    """What a fake got as inputs of batches, oldest first."""
    return [file.data for file in fake.files.values() if file.description["purpose"] == "batch"]


async def post(yard: Yard, file_id: str, **members: Any) -> Any:
    """The answer to a request for a batch."""
    return await yard.door.rest.post("/v1/batches", json=batch_request(file_id, **members))
