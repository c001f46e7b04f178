"""Keys of any bytes, and admin calls of any values: with no key, and with a team's, nothing is told or done."""

from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from batchyard.admin.v1 import admin_service_pb2
from batchyard.v1 import ListFilesRequest

from .conftest import Door
from .inputs import bounded, mutated
from .test_calls import CALL_SECONDS, HEADERS, OURS, messages

METHODS = list(admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].methods)
FORM = b"Bearer sk-by-0123456789abcdef-" + b"A" * 43
TEAM = "team-that-exists"
NO_KEY, NOT_MASTER = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


ADMIN = st.sampled_from(METHODS).flatmap(lambda rpc: st.tuples(st.just(rpc), messages(rpc.input_type), st.booleans()))


@bounded(150)
@given(call=ADMIN, master=st.booleans())
async def test_an_admin_call_with_any_values_is_no_fault_of_the_service(
    door: Door, call: tuple[Any, Message, bool], master: bool
) -> None:
    rpc, message, known = call
    key_id, secret = await door.grpc.new_key(TEAM)
    if known and "key_id" in {field.name for field in rpc.input_type.fields}:
        message.key_id = key_id  # type: ignore[attr-defined]
    metadata = door.grpc.metadata if master else (("authorization", f"Bearer {secret}"),)
    answer = getattr(door.grpc.admin, rpc.name)(message, metadata=metadata, timeout=CALL_SECONDS)
    with suppress(grpc.aio.AioRpcError):
        await answer
    code = await answer.code()
    assert code not in OURS, await answer.details()
    assert master or rpc.name == "CheckHealth" or code is NOT_MASTER


@bounded(150)
@given(header=mutated(st.just(FORM)) | HEADERS.map(lambda text: text.encode("latin-1")) | st.binary(max_size=60))
async def test_a_key_of_any_bytes_lets_nobody_in(door: Door, header: bytes) -> None:
    value = bytes(byte for byte in header if byte >= 32 and byte != 127).strip()  # else it is no header
    answer = await door.rest.get("/v1/files", headers=[(b"authorization", value)])
    assert answer.status_code == (401 if value.isascii() else 400), answer.text
    assert "data" not in answer.json()
    with suppress(UnicodeDecodeError):
        metadata = (("authorization", value.decode("ascii")),)
        call = door.grpc.stub.ListFiles(ListFilesRequest(), metadata=metadata, timeout=CALL_SECONDS)
        with suppress(grpc.aio.AioRpcError):
            await call
        assert await call.code() is NO_KEY


@bounded(50)
@given(at=st.integers(0, 100), byte=st.integers(33, 126))
async def test_a_secret_with_a_wrong_character_lets_nobody_in(door: Door, at: int, byte: int) -> None:
    _, secret = await door.grpc.new_key(TEAM)
    at %= len(secret)
    wrong = secret[:at] + chr(byte) + secret[at + 1 :]
    answer = await door.rest.get("/v1/files", headers={"authorization": f"Bearer {wrong}"})
    assert answer.status_code == (200 if wrong == secret else 401)
