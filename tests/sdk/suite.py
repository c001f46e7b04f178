"""The official SDK against a server: `python suite.py URL KEY [LEFT_OUT...]`, in an environment that has only the SDK.

A URL that does not end in /v1 is the endpoint of an AzureOpenAI; checks that are named are left out.
SUITE_CA, SUITE_CERT and SUITE_KEY, if set, are files: what is trusted, and the client's certificate and key.
Prints a line for each check, "ok NAME" or "failed NAME" with the traceback after it; the exit code says whether all
passed. A check is a function of this module whose name begins with `check_`.
"""

import asyncio
import io
import json
import os
import re
import ssl
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

PATIENCE = 60.0
PAGES = 250
API_VERSION = "2025-04-01-preview"
ENDED = {"completed", "failed", "expired", "cancelled"}


class Session:
    """Clients of the server, and the steps that most checks begin with."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self.key = key
        self.client = self.opened(key)

    def opened(self, key: str, prefix: str = "") -> Any:
        """A client, of the kind that the URL is for; with the prefix `Async` one that is asynchronous."""
        more = {"http_client": with_certificate(prefix)} if "SUITE_CERT" in os.environ else {}
        if self.base_url.endswith("/v1"):
            return getattr(openai, f"{prefix}OpenAI")(base_url=self.base_url, api_key=key, **more)
        azure = getattr(openai, f"{prefix}AzureOpenAI")
        return azure(azure_endpoint=self.base_url, api_key=key, api_version=API_VERSION, **more)

    def upload(self, count: int = 3) -> Any:
        return self.client.files.create(file=("input.jsonl", lines(count)), purpose="batch")

    def create(self, file_id: str, **more: Any) -> Any:
        return self.client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", **more
        )

    def ended(self, batch_id: str) -> Any:
        end = time.monotonic() + PATIENCE
        while (batch := self.client.batches.retrieve(batch_id)).status not in ENDED:
            assert time.monotonic() < end, batch
            time.sleep(0.05)
        return batch

    def completed(self) -> Any:
        batch = self.ended(self.create(self.upload().id).id)
        assert batch.status == "completed", batch
        return batch


def with_certificate(prefix: str) -> Any:
    """An HTTP client of the SDK that shows a certificate."""
    context = ssl.create_default_context(cafile=os.environ["SUITE_CA"])
    context.load_cert_chain(os.environ["SUITE_CERT"], os.environ["SUITE_KEY"])
    kind = "Httpx2" if hasattr(openai, "DefaultHttpx2Client") else "Httpx"
    return getattr(openai, f"Default{prefix}{kind}Client")(verify=context)


def lines(count: int) -> bytes:
    """A batch input of so many lines."""
    requests = []
    for number in range(count):
        body = {"model": "test-model", "messages": [{"role": "user", "content": f"question {number}"}]}
        line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        requests.append(json.dumps(line).encode() + b"\n")
    return b"".join(requests)


def raised(kind: type[Exception], call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """The error of this kind that a call must raise."""
    try:
        answer = call(*arguments, **more)
    except kind as error:
        return error
    raise AssertionError(f"no error, but {answer!r}")


def attempts(error: Any) -> int:
    """How often the SDK had sent the request when it gave up."""
    return int(error.request.headers["x-stainless-retry-count"]) + 1


def check_upload_of_a_path(session: Session) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "path.jsonl")
        path.write_bytes(lines(3))
        file = session.client.files.create(file=path, purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.object) == ("path.jsonl", len(lines(3)), "batch", "file")
    assert (file.status, file.status_details) == ("processed", None)
    assert file.expires_at == file.created_at + 2_592_000


def check_upload_of_bytes_with_a_name(session: Session) -> None:
    content = io.BytesIO(lines(3))
    content.name = "memory.jsonl"
    assert session.client.files.create(file=content, purpose="batch").filename == "memory.jsonl"


def check_upload_of_a_file_object(session: Session) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(lines(3))
        file.seek(0)
        assert session.client.files.create(file=open(file.name, "rb"), purpose="batch").bytes == len(lines(3))  # noqa: SIM115


def check_upload_with_an_expiry(session: Session) -> None:
    file = session.client.files.create(
        file=("input.jsonl", lines(1)), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600


def check_the_life_of_a_batch(session: Session) -> None:
    file = session.upload()
    batch = session.create(file.id, metadata={"label": "a"})
    assert (batch.status, batch.input_file_id, batch.object) == ("validating", file.id, "batch")
    assert (batch.metadata, batch.errors, batch.output_file_id) == ({"label": "a"}, None, None)
    assert batch.expires_at == batch.created_at + 86_400
    batch = session.ended(batch.id)
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 3, 3, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0
    output = session.client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def check_content(session: Session) -> None:
    file_id = session.completed().output_file_id
    content = session.client.files.content(file_id)
    answers = [json.loads(line) for line in content.text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["request-0", "request-1", "request-2"]
    assert {answer["response"]["status_code"] for answer in answers} == {200}
    with session.client.files.with_streaming_response.content(file_id) as streamed:
        assert b"".join(streamed.iter_bytes()) == content.read()


def check_batches_are_listed_page_by_page(session: Session) -> None:
    file = session.upload(1)
    made = [session.create(file.id).id for _ in range(PAGES)]
    for limit in (100, 30):
        listed = [batch.id for batch in session.client.batches.list(limit=limit)]
        assert len(listed) == len(set(listed))
        assert [batch_id for batch_id in listed if batch_id in set(made)] == made[::-1]
    assert len(session.client.batches.list().data) == 20


def check_files_are_listed_page_by_page(session: Session) -> None:
    made = [session.upload(1).id for _ in range(12)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        listed = [file.id for file in session.client.files.list(limit=5, order=order, purpose="batch")]
        assert len(listed) == len(set(listed))
        assert [file_id for file_id in listed if file_id in set(made)] == expected


def check_cancel(session: Session) -> None:
    batch = session.create(session.upload(5000).id)
    assert session.client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    batch = session.ended(batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    assert session.client.batches.cancel(batch.id).status == "cancelled"


def check_delete(session: Session) -> None:
    file = session.upload()
    deleted = session.client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    raised(openai.NotFoundError, session.client.files.retrieve, file.id)


def check_not_found(session: Session) -> None:
    for call in (session.client.files.retrieve, session.client.files.content, session.client.files.delete):
        error = raised(openai.NotFoundError, call, "file-missing")
        assert (error.type, error.param, error.code) == ("invalid_request_error", "id", None)
        assert error.body["message"] == "No such File object: file-missing"
    error = raised(openai.NotFoundError, session.client.batches.retrieve, "batch_missing")
    assert error.body["message"] == "No batch found with id 'batch_missing'."


def check_bad_request(session: Session) -> None:
    error = raised(
        openai.BadRequestError,
        session.client.batches.create,
        input_file_id="file-1",
        endpoint="/v1/x",
        completion_window="24h",
    )
    assert (error.type, error.param, error.code) == ("invalid_request_error", "endpoint", "invalid_value")
    raised(openai.BadRequestError, session.client.files.create, file=("a.csv", b"{}"), purpose="batch")
    raised(openai.BadRequestError, session.client.files.create, file=("a.jsonl", b"{}"), purpose="fun")


def check_authentication(session: Session) -> None:
    stranger = session.opened("sk-wrong")
    assert raised(openai.AuthenticationError, stranger.batches.list).code == "invalid_api_key"
    error = raised(openai.AuthenticationError, stranger.files.create, file=("a.jsonl", lines(1)), purpose="batch")
    assert error.code == "invalid_api_key"


def check_a_conflict_is_not_tried_again(session: Session) -> None:
    batch = session.completed()
    error = raised(openai.ConflictError, session.client.batches.cancel, batch.id)
    assert error.body["message"] == "Cannot cancel a batch with status 'completed'."
    assert attempts(error) == 1


def check_request_ids(session: Session) -> None:
    file = session.upload()
    assert re.fullmatch("req_[0-9a-f]{32}", file._request_id)
    assert re.fullmatch("req_[0-9a-f]{32}", session.client.batches.list()._request_id)
    error = raised(openai.NotFoundError, session.client.files.retrieve, "file-missing")
    assert re.fullmatch("req_[0-9a-f]{32}", error.request_id)


def check_the_async_client(session: Session) -> None:
    asyncio.run(_async(session))


async def _async(session: Session) -> None:
    async with session.opened(session.key, "Async") as client:
        file = await client.files.create(file=("input.jsonl", lines(3)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        async with asyncio.timeout(PATIENCE):
            while (batch := await client.batches.retrieve(batch.id)).status not in ENDED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert batch.status == "completed"
        assert len((await client.files.content(batch.output_file_id)).text.splitlines()) == 3
        seen = [one.id async for one in client.batches.list(limit=40)]
        assert len(seen) == len(set(seen))
        assert batch.id in seen
        assert (await client.files.delete(file.id)).deleted


def main(base_url: str, key: str, *left_out: str) -> int:
    session, failed = Session(base_url, key), 0
    for name, check in [*globals().items()]:
        if name.startswith("check_") and name not in left_out:
            try:
                check(session)
            except Exception:
                failed += 1
                print(f"failed {name}\n{traceback.format_exc()}", flush=True)
            else:
                print(f"ok {name}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
