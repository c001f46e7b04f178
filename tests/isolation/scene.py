"""A front door of two tenants, each with files and batches at two places, and the keys that the matrix is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deployments import QUICK, deployment_of
from tests.groups.scene import HELD
from tests.harness import Client, chat_line, jsonl, upload_messages
from tests.rest.conftest import Door, opened
from tests.upstream.openai import fake_openai

from batchyard.admin.v1 import RevokeKeyRequest
from batchyard.service.config.settings import Group, Key, LocalSettings, Member
from batchyard.v1 import CreateBatchRequest, UploadFileMetadata

FAST, SLOW = "fast-model", "slow-model"
LOCAL, OPENAI, GROUPS = "local", "openai", "groups"
EXPIRED = Key(name="expired", key="sk-expired", tenant="team-a", expires_at=1)


@dataclass
class Team:
    """What a tenant has: its key, and by their places the ids of files and batches that have its name in them."""

    name: str
    key_id: str
    secret: str
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)
    spare: str = ""


@dataclass
class Scene:
    """`keys` are further ones of team-a, by what is wrong with them."""

    door: Door
    mine: Team
    theirs: Team
    keys: dict[str, str]


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Batches at `local` have ended, those at `openai` don't end."""
    async with fake_openai(HELD) as fake:
        groups = [Group(name, (Member(name=name, deployment=OPENAI, model=f"{name}-there"),)) for name in (FAST, SLOW)]
        settings: dict[str, Any] = {
            "local": LocalSettings(echo=True),
            "deployments": (deployment_of("openai", fake),),
            "model_groups": tuple(groups),
            "upstream": QUICK,
            "keys": (EXPIRED,),
        }
        async with opened(folder, **settings) as door:
            key = door.grpc.new_key
            key_id, revoked = await key("team-a")
            await door.grpc.admin.RevokeKey(RevokeKeyRequest(key_id=key_id), metadata=door.grpc.metadata)
            keys = {
                "revoked": revoked,
                "expired": EXPIRED.key,
                "narrow": (await key("team-a", providers=[LOCAL, GROUPS]))[1],
                "elsewhere": (await key("team-a", providers=[OPENAI]))[1],
                "grouped": (await key("team-a", model_groups=[FAST]))[1],
            }
            mine, theirs = [Team(name, *await key(name)) for name in ("team-a", "team-b")]
            for team in (mine, theirs):
                await _furnish(team, door.grpc.having(team.secret))
            yield Scene(door, mine, theirs, keys)


async def _furnish(team: Team, client: Client) -> None:
    for place, model in ((LOCAL, SLOW), (OPENAI, "test-model"), (GROUPS, SLOW)):
        content = jsonl([chat_line(f"{team.name}-line", f"{team.name} asks", model=model)])
        metadata = UploadFileMetadata(purpose="batch", filename=f"{team.name}.jsonl", provider=place)
        team.files[place] = await upload(client, content, metadata)
        if place != GROUPS:
            team.batches[place] = (await client.create(team.files[place], metadata={"of": team.name})).id
    team.spare = await upload(client, b"x", UploadFileMetadata(purpose="user_data", filename=f"{team.name}.txt"))
    await client.ended(team.batches[LOCAL])


async def upload(client: Client, content: bytes, metadata: UploadFileMetadata) -> str:
    answer = await client.stub.UploadFile(upload_messages(content, metadata), metadata=client.metadata)
    return answer.file.id


def creation(file_id: str, provider: str = "", model: str = "") -> CreateBatchRequest:
    """A request for a batch over a file."""
    return CreateBatchRequest(
        input_file_id=file_id,
        provider=provider,
        model=model,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
