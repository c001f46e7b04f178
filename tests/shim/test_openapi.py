"""/openapi.json says what the shim does and the service checks, and can't be out of date."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.processes import ROOT

from batchyard.service.api import validation
from batchyard.service.domain import names
from batchyard.service.jsonl.request_line import NAMES, endpoint_of

from .conftest import Shim

DOCUMENT: dict[str, Any] = json.loads((ROOT / "shim/batchyard/shim/openapi.json").read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield verb.upper(), path, operation


def operation(rpc: str) -> dict[str, Any]:
    (found,) = (known for _, _, known in operations() if known["operationId"] == rpc)
    return found


def parameter(rpc: str, name: str) -> dict[str, Any]:
    (found,) = (known for known in operation(rpc)["parameters"] if known.get("name") == name)
    return dict(found["schema"])


def test_it_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_its_paths_and_verbs_are_the_route_table() -> None:
    routes = (Path(__file__).parent / "routes.txt").read_text().splitlines()
    assert {(verb, path) for verb, path, _ in operations()} == {tuple(route.split()[:2]) for route in routes}


def test_every_operation_has_an_id_of_its_own_a_tag_and_a_summary() -> None:
    assert set(Counter(known["operationId"] for _, _, known in operations()).values()) == {1}
    assert all(known["tags"] and known["summary"] for _, _, known in operations())


def test_every_path_variable_is_a_parameter() -> None:
    for _, path, known in operations():
        references = [item["$ref"].rpartition("/")[2] for item in known.get("parameters", ()) if "$ref" in item]
        given = [DOCUMENT["components"]["parameters"][name] for name in references]
        path_names = {item["name"] for item in given if item["in"] == "path"}
        assert path_names == {segment[1:-1] for segment in path.split("/") if segment.startswith("{")}


def test_only_what_says_nothing_of_tenants_needs_no_key() -> None:
    public = {path for _, path, known in operations() if known.get("security") == []}
    assert public == {"/openapi.json", *(f"/health/{name}" for name in ("liveliness", "liveness", "readiness"))}
    assert DOCUMENT["security"] == [{"key": []}]


async def test_it_is_served_without_a_key(shim: Shim) -> None:
    answer = await shim.client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT
    assert (await shim.client.get("/openapi.json/v1/files")).status_code == 404


def test_the_body_of_a_create_has_the_services_bounds() -> None:
    create = SCHEMAS["CreateBatchRequest"]
    members = create["properties"]
    assert create["additionalProperties"] is True
    assert create["required"] == ["endpoint", "completion_window"]  # and a file or a blob
    assert {"idempotency_key", "object"}.isdisjoint(members)
    assert (members["input_file_id"]["minLength"], members["input_file_id"]["maxLength"]) == (1, names.MOST_ID)
    assert {endpoint_of(endpoint) for endpoint in members["endpoint"]["enum"]} == set(NAMES)
    assert members["completion_window"]["enum"] == list(validation.WINDOWS)
    labels = members["metadata"]
    bounds = labels["maxProperties"], labels["propertyNames"]["maxLength"], labels["additionalProperties"]["maxLength"]
    assert bounds == (names.MOST_METADATA, names.MOST_KEY, names.MOST_VALUE)
    seconds = SCHEMAS["ExpiresAfter"]["properties"]["seconds"]
    assert (seconds["minimum"], seconds["maximum"]) == validation.EXPIRY_SECONDS
    assert parameter("createBatch", "Idempotency-Key")["maxLength"] == validation.MOST_IDEMPOTENCY_KEY


def test_an_upload_has_the_services_bounds() -> None:
    form = operation("uploadFile")["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["purpose"]["enum"] == list(names.PURPOSES)
    seconds = form["properties"]["expires_after[seconds]"]
    assert (seconds["minimum"], seconds["maximum"]) == validation.EXPIRY_SECONDS


def test_bytes_are_binary_for_generators_both_ways() -> None:
    binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    form = operation("uploadFile")["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {name: form["properties"]["file"][name] for name in binary} == binary
    for status in ("200", "206"):
        content = operation("downloadFile")["responses"][status]["content"]
        assert content == {"application/octet-stream": {"schema": binary}}


def test_every_body_has_a_schema() -> None:
    bodies = [body for _, _, known in operations() for body in (known.get("requestBody"), *known["responses"].values())]
    media = [kind for body in bodies if body and "$ref" not in body for kind in body.get("content", {}).values()]
    media += [kind for body in DOCUMENT["components"]["responses"].values() for kind in body["content"].values()]
    assert media
    assert all(kind.get("schema") for kind in media)


@pytest.mark.parametrize(("rpc", "most", "default"), [("listBatches", 100, 20), ("listFiles", 10_000, 10_000)])
def test_a_lists_limit_has_its_bounds(rpc: str, most: int, default: int) -> None:
    bounds = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    assert parameter(rpc, "limit") == bounds


def test_headers_that_stand_for_fields_are_described() -> None:
    get = operation("getBatch")
    assert parameter("getBatch", "Cache-Control") == {"type": "string"}
    assert get["responses"]["200"]["headers"]["X-Batchyard-Age"]["schema"] == {"type": "integer", "format": "int64"}
    assert "X-Batchyard-Age" not in operation("listBatches")["responses"]["200"]["headers"]


def test_hidden_members_are_in_no_schema() -> None:
    assert "provider" not in SCHEMAS["Batch"]["properties"]
    assert {"provider", "stats"}.isdisjoint(SCHEMAS["File"]["properties"])


@pytest.mark.parametrize("stale", ["", "shim/batchyard/shim/openapi.json", "protos/batchyard/v1/file_pb2.pyi"])
def test_what_is_not_current_fails_the_contract(tmp_path: Path, stale: str) -> None:
    for part in (".ci", "protos", "service/batchyard/common", "shim/batchyard/shim"):
        shutil.copytree(ROOT / part, tmp_path / part)
    if stale:
        with (tmp_path / stale).open("a") as file:
            file.write("\n")
    command = [str(ROOT / ".venv-protos/bin/python"), str(tmp_path / ".ci/protos.py"), "check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode == 0) is not bool(stale)
    if stale:
        assert "make protos" in checked.stderr
        assert Path(stale).name in checked.stderr
