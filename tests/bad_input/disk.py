"""What a full disk is answered with. The server that proves these is in `test_disk.py`."""

from grpc import StatusCode
from tests.bad_input.calls import NEVER_RETRY, both
from tests.bad_input.files import BATCH, FILE, LINE, PURPOSE, data, finish, sent
from tests.bad_input.model import Group, Refused, case, upload


def full(message: str) -> Refused:
    return Refused(message, None, None, 507, StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL", "server_error", NEVER_RETRY)


UPLOAD = case(
    "a full disk, at an upload",
    full("The storage of this service is full: its disk must keep 33554432 bytes free "
         "(batchyard.limits.min_free_bytes)."),
    sent(PURPOSE, FILE),
    upload(BATCH, data(LINE), finish()), upload(BATCH, *[data(b"x" * (1 << 20))] * 3, finish(3 << 20)),
)  # fmt: skip
REGISTRY = case(
    "a full disk, in the registry", full("The storage of this service is full. Nothing was changed."),
    *both(input_file_id="file-missing"),
)  # fmt: skip
REGISTERED = case(
    "a full disk of the registry alone, at an upload",
    full("The storage of this service is full. Nothing was changed."),
    sent(PURPOSE, FILE), upload(BATCH, data(LINE), finish()),
)  # fmt: skip

GROUPS = [Group("A full disk", [UPLOAD, REGISTRY, REGISTERED])]
