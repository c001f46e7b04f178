"""Two tenants at once, doing anything: neither ever sees an id, a count, a name or a figure of the other's."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from grpc import StatusCode
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.fuzz.inputs import bounded, examples
from tests.harness import chat_line, jsonl

from batchyard.v1 import (
    CancelBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListFilesRequest,
    UploadFileMetadata,
)

from .asking import Came, over_grpc, over_rest
from .matrix import Ask
from .scene import LOCAL, OPENAI, Scene, Team, creation, scene

SERVICE = "batchyard.v1.BatchService"
OF_FILES = {"GetFile": GetFileRequest, "DownloadFile": DownloadFileRequest, "DeleteFile": DeleteFileRequest}
OF_BATCHES = {"GetBatch": GetBatchRequest, "CancelBatch": CancelBatchRequest}
LISTS = {"ListFiles": ListFilesRequest, "ListBatches": ListBatchesRequest}
LINES = {"team-a": 1, "team-b": 3}


class Step(NamedTuple):
    """What a tenant does, over gRPC or REST; `stray`: with an id of the other's, `at` chooses which."""

    what: str
    rest: bool
    stray: bool
    at: int
    place: str


@dataclass
class Known:
    """What a tenant has made and not deleted, and the ids that it has named, which its batches may name too.

    `once` has the input and the batch of each idempotency key; both tenants use the same ones.
    """

    team: Team
    files: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    once: dict[str, tuple[str, str]] = field(default_factory=dict)

    def ids(self) -> set[str]:
        return {*self.files, *self.batches}


@dataclass
class Pair:
    scene: Scene
    known: list[Known]
    absent: dict[tuple[str, bool], Came] = field(default_factory=dict)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with scene(tmp_path) as running:
        teams = [running.mine, running.theirs]
        known = [Known(team, [*team.files.values(), team.spare], [*team.batches.values()]) for team in teams]
        yield Pair(running, known)


STEPS = st.builds(
    Step,
    what=st.sampled_from(["UploadFile", "CreateBatch", *OF_FILES, *OF_BATCHES, *LISTS]),
    rest=st.booleans(),
    stray=st.booleans(),
    at=st.integers(0, 1000),
    place=st.sampled_from([LOCAL, LOCAL, OPENAI]),
)
MANY = st.lists(STEPS, min_size=8, max_size=14)
IDS = re.compile(r"(?:file-|batch_)\w+")
PAGE = 100
MOST_EXAMPLES = 500  # each takes more than ten calls


# A failure is not tried again in shorter forms: it hangs on what came before.
@settings(bounded(15), max_examples=min(examples(15), MOST_EXAMPLES), phases=(Phase.explicit, Phase.generate))
@given(ours=MANY, theirs=MANY)
async def test_whatever_two_tenants_do_neither_sees_the_other(pair: Pair, ours: list[Step], theirs: list[Step]) -> None:
    async def run(steps: list[Step], own: Known, other: Known) -> None:
        for step in steps:
            await taken(pair, step, own, other)

    one, two = pair.known
    await asyncio.gather(run(ours, one, two), run(theirs, two, one))


async def taken(pair: Pair, step: Step, own: Known, other: Known) -> None:
    """Takes a step, and checks all that came of it."""
    ask = asked(step, own, other)
    own.named.add(ask.names)
    came = await sent(pair, step, ask)
    shown = came.message + came.text
    assert other.team.name not in shown, (step, shown)
    assert not (set(IDS.findall(shown)) & other.ids()) - own.named, (step, shown)
    if step.stray and ask.names:
        key = (step.what, step.rest)
        if key not in pair.absent:
            missing = asked(step, own, Known(other.team, ["file-none"], ["batch_none"]))
            absent = await sent(pair, step, missing)
            note(step, missing, absent, own)
            pair.absent[key] = absent.without(missing.names)
        assert came.without(ask.names) == pair.absent[key], step
    note(step, ask, came, own)


async def sent(pair: Pair, step: Step, ask: Ask) -> Came:
    """Creations over what is not there are awaited: what they fail of must not differ either."""
    send = over_rest if step.rest else over_grpc
    return await send(pair.scene, f"{SERVICE}.{step.what}", ask, wait=step.stray)


def asked(step: Step, own: Known, other: Known) -> Ask:
    whose, secret = (other if step.stray else own), own.team.secret
    if step.what == "UploadFile":
        lines = [chat_line(f"{own.team.name}-{n}", own.team.name) for n in range(LINES[own.team.name])]
        metadata = UploadFileMetadata(purpose="batch", filename=f"{own.team.name}.jsonl", provider=step.place)
        return Ask(metadata, secret, content=jsonl(lines))
    one_of: Any = whose.batches if step.what in (*OF_BATCHES, "ListBatches") else whose.files
    name = one_of[step.at % len(one_of)] if one_of else "none"
    if step.what == "CreateBatch":
        request = creation(name)
        request.idempotency_key = "" if step.stray else f"once-{step.at % 3}"
        return Ask(request, secret, name)
    if step.what in LISTS:
        after = name if step.stray else ""
        return Ask(LISTS[step.what](after=after, limit=PAGE), secret, after)
    if step.what in OF_FILES:
        return Ask(OF_FILES[step.what](file_id=name), secret, name)
    return Ask(OF_BATCHES[step.what](batch_id=name), secret, name)


def created(ask: Ask, came: Came, own: Known) -> None:
    """Keeps a batch; under an idempotency key that the tenant has used it must be the same, or none."""
    request: Any = ask.request
    before = own.once.get(request.idempotency_key)
    if before and before[0] != ask.names:
        assert came.code in (StatusCode.ALREADY_EXISTS, StatusCode.FAILED_PRECONDITION), came  # REST has 409 for both
        return
    assert came.code is StatusCode.OK, came
    if before:
        assert came.made == before[1]
        return
    assert came.made not in own.batches
    own.batches.append(came.made)
    if request.idempotency_key:
        own.once[request.idempotency_key] = (ask.names, came.made)


def note(step: Step, ask: Ask, came: Came, own: Known) -> None:
    """Keeps what was made and deleted, and checks lists and figures against it."""
    good = came.code is StatusCode.OK
    if step.what == "UploadFile":
        own.files.append(came.made)
    elif step.what == "CreateBatch":
        created(ask, came, own)
    elif step.what == "DeleteFile" and good:
        own.files.remove(ask.names)
    elif step.what == "ListBatches" and good:
        assert {found for found, _ in came.listed} == set(own.batches[-PAGE:])
    elif step.what == "ListFiles" and good:
        found = {file_id for file_id, name in came.listed if name.rpartition("_")[0] not in own.batches}
        assert found <= set(own.files)
        assert len(came.listed) == PAGE or found == set(own.files)
    elif step.what == "GetBatch" and good:
        counted = re.findall(r"total\"?: ?(\d+)", came.text)
        assert {int(total) for total in counted} <= {0, 1, LINES[own.team.name]}, came.text
