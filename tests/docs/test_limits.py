"""docs/limits.md has every bound, with the value that the code has."""

import dataclasses
import re

import pytest
from tests.processes import ROOT

from batchyard.common import clock, members
from batchyard.common.http import connection, exchange, request_body, request_head
from batchyard.service import server
from batchyard.service.access import downloads
from batchyard.service.api import batch_servicer, key_admin, message_reader, upload_stream, validation
from batchyard.service.config.settings import GroupSettings, Limits, Quotas
from batchyard.service.datadir import aside
from batchyard.service.domain import names
from batchyard.service.engine.runners import http, slots
from batchyard.service.jsonl import request_line
from batchyard.service.objects import checksums, sweep
from batchyard.service.providers.remote import fields
from batchyard.service.registry import integrity, tenant
from batchyard.service.upstream import errors_text, transport
from batchyard.shim import files, inbound, transcoding

PAGE = (ROOT / "docs/limits.md").read_text()
GROUPS = dict(re.findall(r"^\| `batchyard\.groups\.(\w+)` \| `(\d+)` \|", PAGE, re.MULTILINE))
CONFIGURED = dict(re.findall(r"^\| `batchyard\.limits\.(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
FIXED = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", PAGE, re.MULTILINE))
CONSTANTS = {
    "pairs of metadata": names.MOST_METADATA,
    "characters of a metadata key": names.MOST_KEY,
    "characters of a metadata value": names.MOST_VALUE,
    "characters of a file id": names.MOST_ID,
    "characters of a file name": validation.MOST_FILENAME,
    "characters of an idempotency key": validation.MOST_IDEMPOTENCY_KEY,
    "seconds that an idempotency key is remembered": tenant.KEY_SECONDS,
    "least seconds of an expiry": validation.EXPIRY_SECONDS[0],
    "most seconds of an expiry": validation.EXPIRY_SECONDS[1],
    "batches of a page": batch_servicer.MOST_BATCHES,
    "files of a page": batch_servicer.MOST_FILES,
    "characters of a `custom_id`": request_line.MAX_CUSTOM_ID,
    "characters of a model's name": request_line.MAX_MODEL,
    "bytes of an error that [a line](local.md#how-a-line-runs) is answered with": http.MOST_ERROR,
    "bytes of a header of an endpoint's or a provider's answer": transport.MOST_HEADER,
    "headers of such an answer": transport.MOST_HEADERS,
    "most seconds that an endpoint is left alone between two tries": slots.LONGEST_PAUSE,
    "most seconds that its `Retry-After` counts for": slots.LONGEST_HINT,
    "characters of a provider's text, in an error, a batch or a line's result": errors_text.MOST_TEXT,
    "characters of a provider's id": fields.MOST_ID,
    "bytes of a piece of an upload": upload_stream.MOST_PIECE,
    "metadata messages of an upload": upload_stream.MOST_DESCRIPTIONS,
    "bytes of a JSON body": transcoding.MAX_BODY,
    "bytes of a gRPC message that is its call's only one": message_reader.MOST_MESSAGE,
    "bytes of a new batch's members that are not known here": members.MOST_BYTES,
    "values of these, members and elements of arrays at all levels": members.MOST_VALUES,
    "levels of these, arrays and objects inside each other": members.MOST_DEPTH,
    "bytes of a form's field": files.MAX_FIELD,
    "fields of a form beside the file": files.MAX_FIELDS,
    "bytes of a request's line and headers": request_head.MAX_HEAD_BYTES,
    "bytes of chunks' lines and a trailer, besides 256 a chunk": request_body.MAX_CHUNK_OVERHEAD,
    "bytes of a body that wait in the shim until no more are read": exchange.REQUEST_HIGH_WATER,
    "bytes of an answer that wait for its client until no more are sent": connection.ANSWER_HIGH_WATER,
    "bytes of further requests on a connection until no more are read": connection.AHEAD_HIGH_WATER,
    "bytes of the pieces, one of each, in which all downloads that are open get their files": downloads.DOWNLOAD_BYTES,
    "least bytes of such a piece, where many are open": downloads.LEAST_PIECE,
    "most bytes of such a piece, where few are": downloads.MOST_PIECE,
    "bytes of a body that are read and thrown away after its answer": connection.MAX_DISCARDED_BYTES,
    "characters of the authorization header": inbound.MAX_HEADER,
    "characters of a key's name": key_admin.MOST_NAME,
    "providers, and model groups, of a key": key_admin.MOST_ALLOWED,
    "keys of a page": key_admin.MOST_KEYS,
    "most seconds of a rotated key's grace": key_admin.MOST_GRACE,
    "most seconds of a new key's life": key_admin.MOST_LIFETIME,
    "seconds of a call that carries no stream": server.UNARY_SECONDS,
    "seconds until the message of a call that has one": message_reader.MESSAGE_SECONDS,
    "streams of health and reflection at once, and single checks at once": message_reader.MOST_PUBLIC,
}

START = [
    sweep.MOST_UNKNOWN,
    aside.KEPT_SECONDS,
    integrity.MOST_BYTES,
    checksums.BLOCK,
    int(clock.JUMP_SECONDS),
    int(clock.TRUST_SECONDS),
]


@pytest.mark.parametrize("field", dataclasses.fields(Limits), ids=lambda field: field.name)
def test_a_configured_bound_is_there_with_its_default(field: "dataclasses.Field[object]") -> None:
    assert CONFIGURED[field.name] == ("not set" if field.default is None else f"`{field.default}`")


def test_the_bounds_of_groups_are_there_with_their_defaults() -> None:
    bounds = ("max_batch_file_bytes", "max_batch_lines")
    assert {name: str(getattr(GroupSettings(), name)) for name in bounds} == GROUPS


def test_no_bound_is_there_that_is_not_configured() -> None:
    assert set(CONFIGURED) == {field.name for field in dataclasses.fields(Limits)}


def test_the_limits_of_keys_and_tenants_are_there() -> None:
    section = PAGE.partition("## Of keys and tenants")[2].partition("## Fixed")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert named == [field.name for field in dataclasses.fields(Quotas)]


def test_the_fixed_bounds_are_the_codes() -> None:
    assert {name: int(value) for name, value in FIXED.items()} == CONSTANTS


def test_the_bounds_of_the_start_and_the_clock_are_the_codes() -> None:
    section = PAGE.partition("## Of the start and the clock")[2]
    assert [int(value) for value in re.findall(r"\| `(\d+)` \|$", section, re.MULTILINE)] == START
