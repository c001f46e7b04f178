"""What is asked over REST, of Batchyard and of whatever else speaks OpenAI's API."""

import json

from tests.bench.load import NO_HEADERS, Headers, asked, request
from tests.harness import chat_lines, jsonl

FORM = {"content-type": "multipart/form-data; boundary=bench"}
FORM_HEAD = (
    b'--bench\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--bench\r\ncontent-disposition: form-data; name="file"; filename="input.jsonl"\r\n'
    b"content-type: application/jsonl\r\n\r\n"
)
FORM_TAIL = b"\r\n--bench--\r\n"


def key(secret: str) -> dict[str, str]:
    """The header that a caller with a key sends."""
    return {"authorization": f"Bearer {secret}"}


def get(batch_id: str, headers: Headers = NO_HEADERS, prefix: str = "/v1") -> bytes:
    """A request for a batch; `prefix` is of the path."""
    return request("GET", f"{prefix}/batches/{batch_id}", headers)


def create(file_id: str, headers: Headers = NO_HEADERS, prefix: str = "/v1") -> bytes:
    new = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return request("POST", f"{prefix}/batches", headers, json.dumps(new).encode())


async def new_file(port: int, headers: Headers = NO_HEADERS, prefix: str = "/v1") -> str:
    """The id of a new input of a few lines."""
    body = FORM_HEAD + jsonl(chat_lines(3)) + FORM_TAIL
    answer = await asked(port, request("POST", f"{prefix}/files", {**headers, **FORM}, body))
    name: str = json.loads(answer)["id"]
    return name


async def new_batch(port: int, headers: Headers = NO_HEADERS, prefix: str = "/v1") -> str:
    """The id of a new batch, over a new file."""
    file_id = await new_file(port, headers, prefix)
    name: str = json.loads(await asked(port, create(file_id, headers, prefix)))["id"]
    return name
