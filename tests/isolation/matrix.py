"""The isolation matrix: what each RPC answers to whom, for what. An RPC without a row fails the build.

A cell is what must come, or the reason why the RPC has nothing to ask there. Of things that are another tenant's, or at
a place that a key may not use, the answer must be that for things that are not there, but for their ids.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpc import StatusCode

from batchyard.admin.v1 import (
    AdoptBatchRequest,
    AdoptFileRequest,
    CheckHealthRequest,
    CreateKeyRequest,
    ListDeploymentsRequest,
    ListKeysRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from batchyard.v1 import (
    CancelBatchRequest,
    DeleteFileRequest,
    DownloadFileRequest,
    GetBatchRequest,
    GetFileRequest,
    ListBatchesRequest,
    ListFilesRequest,
    UploadFileMetadata,
    WatchBatchRequest,
)

from .scene import FAST, GROUPS, LOCAL, OPENAI, SLOW, Scene, creation

COLUMNS = ("own", "others", "missing", "revoked key", "expired key", "wrong provider", "wrong group")


class Answer(NamedTuple):
    """A status, and the parameter that an error names."""

    code: StatusCode
    param: str | None = None


class Ask(NamedTuple):
    """A request, with a key; `names` is the id in it, which answers may differ by, `content` an upload's."""

    request: Message
    secret: str
    names: str = ""
    content: bytes = b"content"


Asks = Callable[[Scene], list[Ask]]


@dataclass(frozen=True)
class Cell:
    """What is asked, and what must come: an answer, or that of the cell `missing`."""

    asks: Asks
    answer: Answer | None


Row = Mapping[str, "Cell | str"]

OK = Answer(StatusCode.OK)
NO_KEY = Answer(StatusCode.UNAUTHENTICATED)
NO_PROVIDER = Answer(StatusCode.PERMISSION_DENIED, "provider")
NO_GROUP = Answer(StatusCode.PERMISSION_DENIED, "model")
NOT_MASTER = Answer(StatusCode.PERMISSION_DENIED)
NO_BATCH = Answer(StatusCode.NOT_FOUND)
NO_FILE = Answer(StatusCode.NOT_FOUND, "id")
AS_MISSING = None
NO_MODEL = "it names no model"


def _row(
    make: Callable[[str, str], Message],
    own: Callable[[Scene], str],
    others: Callable[[Scene], list[str]],
    elsewhere: Callable[[Scene], str],
    absent: str,
    missing: Answer,
    **more: Cell,
) -> Row:
    """The row of an RPC that is about an id; `make` has it, and a provider."""
    return {
        "own": Cell(lambda s: [Ask(make(own(s), ""), s.mine.secret)], OK),
        "others": Cell(lambda s: [Ask(make(one, ""), s.mine.secret, one) for one in others(s)], AS_MISSING),
        "missing": Cell(lambda s: [Ask(make(absent, ""), s.mine.secret, absent)], missing),
        **_ended(lambda s: make(own(s), "")),
        "wrong provider": Cell(lambda s: [Ask(make(elsewhere(s), ""), s.keys["narrow"], elsewhere(s))], AS_MISSING),
        "wrong provider, by name": Cell(lambda s: [Ask(make(elsewhere(s), OPENAI), s.keys["narrow"])], NO_PROVIDER),
        "wrong group": NO_MODEL,
        **more,
    }


def _ended(make: Callable[[Scene], Message]) -> dict[str, Cell]:
    return {
        f"{which} key": Cell(lambda s, which=which: [Ask(make(s), s.keys[which])], NO_KEY)  # type: ignore[misc]
        for which in ("revoked", "expired")
    }


def _of_file(kind: Any, own: Callable[[Scene], str]) -> Row:
    return _row(
        lambda file_id, provider: kind(file_id=file_id, provider=provider),
        own,
        lambda s: [*s.theirs.files.values(), s.theirs.spare],
        lambda s: s.mine.files[OPENAI],
        "file-missing",
        NO_FILE,
    )


def _of_batch(kind: Any, own: Callable[[Scene], str]) -> Row:
    return _row(
        lambda batch_id, provider: kind(batch_id=batch_id, provider=provider),
        own,
        lambda s: [*s.theirs.batches.values()],
        lambda s: s.mine.batches[OPENAI],
        "batch_missing",
        NO_BATCH,
    )


def _of_list(kind: Any, ids: Callable[[Any], list[str]], elsewhere: Callable[[Scene], str], absent: str) -> Row:
    """Ids are its cursors."""
    return _row(
        lambda after, provider: kind(after=after, provider=provider),
        lambda s: ids(s.mine)[0],
        lambda s: ids(s.theirs),
        elsewhere,
        absent,
        Answer(StatusCode.INVALID_ARGUMENT, "after"),
    )


def _of_master(make: Callable[[Scene], Message]) -> Row:
    """What takes the master key answers alike whatever it is asked for."""
    return {
        "own": Cell(lambda s: [Ask(make(s), s.mine.secret)], NOT_MASTER),
        **dict.fromkeys(("others", "missing"), "it answers no tenant's key"),
        **_ended(make),
        "wrong provider": Cell(lambda s: [Ask(make(s), s.keys["elsewhere"])], NOT_MASTER),
        "wrong group": Cell(lambda s: [Ask(make(s), s.keys["grouped"])], NOT_MASTER),
    }


def _uploading(provider: str = "") -> UploadFileMetadata:
    return UploadFileMetadata(purpose="user_data", filename="mine.txt", provider=provider)


MATRIX: Mapping[str, Row] = {
    "batchyard.v1.BatchService.GetFile": _of_file(GetFileRequest, lambda s: s.mine.files[LOCAL]),
    "batchyard.v1.BatchService.DownloadFile": _of_file(DownloadFileRequest, lambda s: s.mine.files[LOCAL]),
    "batchyard.v1.BatchService.DeleteFile": _of_file(DeleteFileRequest, lambda s: s.mine.spare),
    "batchyard.v1.BatchService.GetBatch": _of_batch(GetBatchRequest, lambda s: s.mine.batches[LOCAL]),
    "batchyard.v1.BatchService.WatchBatch": _of_batch(WatchBatchRequest, lambda s: s.mine.batches[LOCAL]),
    "batchyard.v1.BatchService.CancelBatch": _of_batch(CancelBatchRequest, lambda s: s.mine.batches[OPENAI]),
    "batchyard.v1.BatchService.ListFiles": _of_list(
        ListFilesRequest, lambda team: [*team.files.values()], lambda s: s.mine.files[OPENAI], "file-missing"
    ),
    "batchyard.v1.BatchService.ListBatches": _of_list(
        ListBatchesRequest, lambda team: [*team.batches.values()], lambda s: s.mine.batches[OPENAI], "batch_missing"
    ),
    "batchyard.v1.BatchService.CreateBatch": _row(
        creation,
        lambda s: s.mine.files[LOCAL],
        lambda s: [*s.theirs.files.values(), s.theirs.spare],
        lambda s: s.mine.files[OPENAI],
        "file-missing",
        OK,
        **{
            "wrong provider, by default": Cell(
                lambda s: [Ask(creation("file-missing"), s.keys["elsewhere"])], NO_PROVIDER
            ),
            "wrong group": Cell(
                lambda s: [
                    Ask(creation(s.mine.files[GROUPS]), s.keys["grouped"]),
                    Ask(creation("file-missing", GROUPS, SLOW), s.keys["grouped"]),
                ],
                NO_GROUP,
            ),
            "wrong group, in a file elsewhere": Cell(
                lambda s: [Ask(creation(s.mine.files[LOCAL], GROUPS), s.keys["grouped"], s.mine.files[LOCAL])],
                AS_MISSING,
            ),
            "right group": Cell(lambda s: [Ask(creation("file-missing", GROUPS, FAST), s.keys["grouped"])], OK),
        },
    ),
    "batchyard.v1.BatchService.UploadFile": {
        "own": Cell(lambda s: [Ask(_uploading(), s.mine.secret)], OK),
        **dict.fromkeys(("others", "missing"), "it names nothing that is there"),
        **_ended(lambda _: _uploading()),
        "wrong provider": Cell(
            lambda s: [Ask(_uploading(OPENAI), s.keys["narrow"]), Ask(_uploading(), s.keys["elsewhere"])], NO_PROVIDER
        ),
        "wrong group": NO_MODEL,
    },
    "batchyard.admin.v1.AdminService.CheckHealth": {
        "own": Cell(lambda s: [Ask(CheckHealthRequest(model=SLOW), s.mine.secret)], OK),
        "others": "deployments are no tenant's",
        "missing": Cell(
            lambda s: [Ask(CheckHealthRequest(model="missing"), s.mine.secret, "missing")],
            Answer(StatusCode.NOT_FOUND, "model"),
        ),
        **_ended(lambda _: CheckHealthRequest()),
        "wrong provider": Cell(lambda s: [Ask(CheckHealthRequest(provider=OPENAI), s.keys["narrow"])], NO_PROVIDER),
        "wrong group": Cell(lambda s: [Ask(CheckHealthRequest(model=SLOW), s.keys["grouped"], SLOW)], AS_MISSING),
    },
    "batchyard.admin.v1.AdminService.AdoptFile": _of_master(
        lambda s: AdoptFileRequest(provider=OPENAI, file_id=s.theirs.files[OPENAI], tenant="team-a")
    ),
    "batchyard.admin.v1.AdminService.AdoptBatch": _of_master(
        lambda s: AdoptBatchRequest(provider=OPENAI, batch_id=s.theirs.batches[OPENAI], tenant="team-a")
    ),
    "batchyard.admin.v1.AdminService.ListDeployments": _of_master(lambda _: ListDeploymentsRequest()),
    "batchyard.admin.v1.AdminService.CreateKey": _of_master(lambda _: CreateKeyRequest(tenant="team-a", name="x")),
    "batchyard.admin.v1.AdminService.ListKeys": _of_master(lambda _: ListKeysRequest(tenant="team-a")),
    "batchyard.admin.v1.AdminService.RotateKey": _of_master(lambda s: RotateKeyRequest(key_id=s.theirs.key_id)),
    "batchyard.admin.v1.AdminService.RevokeKey": _of_master(lambda s: RevokeKeyRequest(key_id=s.theirs.key_id)),
}
