"""Writes the REST API's description, OpenAPI 3.1, from the contract and from what is known of the other routes.

python .ci/openapi.py DESCRIPTORS OUT    DESCRIPTORS: a FileDescriptorSet with source info; the stubs are on the path
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass
from schemas import LIMITS, PURPOSES, Comments, Schema, Schemas

from batchyard.admin.v1 import admin_service_pb2
from batchyard.common.jsonmap import header_fields, options, visible_fields
from batchyard.v1 import batch_service_pb2, error_pb2

SERVICE = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"]
ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
FORMS = {
    "/v1": "",
    "": "Unversioned",
    "/{provider}/v1": "AtProvider",
    "/{provider}": "AtProviderUnversioned",
    "/{provider}/openai": "Azure",
    "/{provider}/openai/v1": "AzureV1",
    "/{provider}/deployments/{deployment}": "AtDeployment",
    "/{provider}/openai/deployments/{deployment}": "AzureAtDeployment",
}
BYTES = {"UploadFile": ("POST", "/files"), "DownloadFile": ("GET", "/files/{file_id}/content")}
JSON = "application/json"
_AGAIN = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_NEVER = {"X-Should-Retry": {"description": "A repeat can't help.", "schema": {"const": "false"}}}
_OUTSIDE = {"Content-Range": {"description": "`bytes */SIZE`.", "schema": {"type": "string"}}}
ERRORS: dict[str, tuple[str, Schema]] = {
    "400": ("The request is wrong; `param` names what is.", {}),
    "401": ("The key is missing, wrong, revoked or expired.", {}),
    "403": ("The key may not use the provider or the model group; `param` names which.", {}),
    "404": ("There is no such file, batch or model, or no such route.", {}),
    "408": ("The request's body took too long.", {}),
    "409": ("The present state doesn't allow it, or the idempotency key was used for another request.", _NEVER),
    "413": ("The body, or the file in it, is too large.", {}),
    "416": ("The range is not within the file.", _OUTSIDE),
    "429": ("Too much at once.", _AGAIN),
    "431": ("The request's headers are too large.", {}),
    "500": ("A defect of the server, or stored bytes that are damaged.", {}),
    "503": ("The service can't be reached, stops, or has too many requests.", _AGAIN),
    "504": ("The service did not answer in time.", {}),
    "507": ("The storage is full.", _NEVER),
}
ALWAYS = ["400", "401", "403", "404", "429", "431", "500", "503", "504"]
ALSO = {
    "CreateBatch": ["408", "409", "413", "507"],
    "CancelBatch": ["409", "507"],
    "DeleteFile": ["409", "507"],
    "UploadFile": ["408", "413", "507"],
    "DownloadFile": ["416"],
}


def text(description: str, **schema: Any) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


PARAMETERS: dict[str, Schema] = {
    "PathProvider": {"name": "provider", "in": "path", "required": True}
    | text("The provider, as the configuration names it.", minLength=1),
    "PathDeployment": {"name": "deployment", "in": "path", "required": True}
    | text("What Azure's clients have there. It is not looked at: a batch's lines name theirs.", minLength=1),
    "batch_id": {"name": "batch_id", "in": "path", "required": True} | text("The batch.", minLength=1),
    "file_id": {"name": "file_id", "in": "path", "required": True} | text("The file.", minLength=1),
    "Provider": {"name": "provider", "in": "query"}
    | text("The provider. Where several places name one, they must name the same."),
    "ProviderAlias": {"name": "custom_llm_provider", "in": "query"} | text("Another name of `provider`."),
    "ProviderHeader": {"name": "custom-llm-provider", "in": "header"} | text("The provider, as in the query."),
    "Model": {"name": "model", "in": "query"}
    | text("A model group, instead of a provider; 400 where it is none, or where two places name different ones."),
    "TargetModelNames": {"name": "target_model_names", "in": "query"}
    | text("Model groups, with commas between them, as `model`."),
    "ModelHeader": {"name": "x-litellm-model", "in": "header"} | text("A model group, as `model`."),
    "RequestId": {"name": "X-Request-Id", "in": "header"}
    | text("A name for the request, which the answer and the logs repeat: 1 to 128 of `A-Za-z0-9._-`."),
    "Range": {"name": "Range", "in": "header"}
    | text("One range, `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`; what is none is ignored."),
    "IfRange": {"name": "If-Range", "in": "header"} | text("The ETag of the content that the range is meant for."),
    "LastEventId": {"name": "Last-Event-ID", "in": "header"}
    | text("The id of the last event that came. After `end` there is nothing more: 204."),
}

EVENTS = (
    "Each event `batch` has the batch as JSON in its data, and an id that is the same for the same state. A comment "
    "comes where nothing else does for 15 seconds. The event `end`, with the id `end`, comes last when the batch has "
    "ended. An event `error` has the error's envelope in its data; connect again after it."
)
# OpenAPI 3.1 says only that bytes have a media type; generators of code still look for this format.
BINARY: Schema = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
FORM: Schema = {
    "type": "object",
    "required": ["file", "purpose"],
    "additionalProperties": False,
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
    "properties": {
        "purpose": {
            "type": "string",
            "enum": PURPOSES,
            "description": "What the file is for. Where it comes before the file, a wrong one is refused at once.",
        },
        "file": {
            **BINARY,
            "description": "The content. The name of a batch's input ends in .jsonl, if it has an extension.",
        },
        "expires_after[anchor]": {
            "type": "string",
            **LIMITS["ExpiresAfter.anchor"],
            "description": "From when the time counts. `expires_after.anchor` is read too.",
        },
        "expires_after[seconds]": {
            "type": "integer",
            **LIMITS["ExpiresAfter.seconds"],
            "description": "When the file is deleted. `expires_after.seconds` is read too.",
        },
        "provider": {"type": "string", "description": "The provider; before the file, or as it was named elsewhere."},
        "custom_llm_provider": {"type": "string", "description": "Another name of `provider`."},
        "model": {"type": "string", "description": "A model group, instead of `provider`; before the file."},
        "target_model_names": {"type": "string", "description": "Model groups, with commas between them, as `model`."},
    },
}


class Description:
    """The document, from the contract's comments."""

    def __init__(self, comments: Comments) -> None:
        self._comments = comments
        self._schemas = Schemas(comments)
        self._paths: dict[str, Schema] = {}

    def whole(self) -> Schema:
        for rpc in chain(SERVICE.methods, ADMIN.methods):
            for verb, path, rule in _bindings(rpc):
                self._add(verb, path, self._operation(rpc, verb, path, rule))
        for path, verb, operation in _public():
            self._add(verb, path, operation)
        components = {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "parameters": PARAMETERS,
            "headers": {"RequestId": text("The request's name, the caller's or a new one.")},
            "responses": {status: self._refusal(status) for status in ERRORS},
            "schemas": {"Error": self._envelope(), **self._schemas.made},
        }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Batchyard",
                "version": "v1",
                "description": "One front door for LLM batch work: OpenAI's Files and Batches API.",
                "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"key": []}],
            "tags": [{"name": "batches"}, {"name": "files"}, {"name": "server"}],
            "paths": dict(sorted(self._paths.items())),
            "components": components,
        }

    def _add(self, verb: str, path: str, operation: Schema) -> None:
        self._paths.setdefault(path, {})[verb.lower()] = operation

    def _operation(self, rpc: MethodDescriptor, verb: str, path: str, rule: Any) -> Schema:
        form = FORMS[next(form for form in sorted(FORMS, key=len, reverse=True) if path.startswith(form))]
        tag = "files" if "/files" in path else "batches"
        if rpc.containing_service is ADMIN:
            form, tag = "", "server"
        summary, description = self._comments.sentences(rpc.full_name)
        if rpc.name in BYTES:  # the rest is about messages that REST doesn't have
            summary, description = summary.partition(":")[0], ""
        known = {
            "operationId": rpc.name[0].lower() + rpc.name[1:] + form,
            "tags": [tag],
            "summary": summary,
            **({"description": description} if description else {}),
            "parameters": [*_shared_parameters(path), *self._parameters(rpc, path, rule)],
        }
        if body := self._body(rpc, rule):
            known["requestBody"] = {"required": True, "content": body}
        refusals = {status: _refer("responses", status) for status in sorted(ALWAYS + ALSO.get(rpc.name, []))}
        return {**known, "responses": {**self._answers(rpc, rule), **refusals}}

    def _parameters(self, rpc: MethodDescriptor, path: str, rule: Any) -> Iterator[Schema]:
        """What the request's message reads from the query and from headers."""
        if rpc.name == "DownloadFile":
            yield from (_refer("parameters", name) for name in ("Range", "IfRange"))
        if rpc.server_streaming and rule:
            yield _refer("parameters", "LastEventId")
        kind: Any = GetMessageClass(rpc.input_type)
        for name, field in visible_fields(kind).items() if rule and not rule.body else ():
            if name != "provider" and f"{{{name}}}" not in path:
                schema = {"schema": self._schemas.field(field)}
                yield {"name": name, "in": "query", **self._schemas.description(field), **schema}
        for header, shown in self._headers(kind).items():
            yield {"name": header, "in": "header", **shown}

    def _headers(self, kind: Any) -> dict[str, Schema]:
        """What headers stand for in a message, by their names."""
        words: Schema = {"type": "string"}
        return {
            header.title(): {
                **self._schemas.description(field),
                "schema": words if options(field).header_word else self._schemas.field(field),
            }
            for header, field in header_fields(kind).items()
        }

    def _body(self, rpc: MethodDescriptor, rule: Any) -> Schema | None:
        if rpc.name == "UploadFile":
            return {"multipart/form-data": {"schema": FORM}}
        return (
            {JSON: {"schema": self._schemas.request(GetMessageClass(rpc.input_type))}} if rule and rule.body else None
        )

    def _answers(self, rpc: MethodDescriptor, rule: Any) -> Schema:
        if rpc.name == "DownloadFile":
            return {
                "200": _content("The whole content."),
                "206": _content("The range that was asked for.", partial=True),
            }
        member = rule.response_body if rule else "file"
        field = rpc.output_type.fields_by_name[member] if member else None
        kind = GetMessageClass(field.message_type if field else rpc.output_type)
        schema = self._schemas.answer(kind)
        if rpc.server_streaming:
            stream = {"text/event-stream": {"schema": {"type": "string"}}}
            return {"200": _answer(EVENTS, stream), "204": _answer("The events have ended.")}
        what = self._comments.of(field.full_name if field else rpc.output_type.full_name)
        return {"200": _answer(what, {JSON: {"schema": schema}}, self._headers(kind))}

    def _envelope(self) -> Schema:
        error = self._schemas.answer(GetMessageClass(error_pb2.DESCRIPTOR.message_types_by_name["ApiError"]))
        self._schemas.made["ApiError"]["properties"]["type"]["type"] = "string"  # over REST there always is one
        return {"type": "object", "required": ["error"], "properties": {"error": error}}

    def _refusal(self, status: str) -> Schema:
        description, headers = ERRORS[status]
        return _answer(description, {JSON: {"schema": _refer("schemas", "Error")}}, headers)


def _bindings(rpc: MethodDescriptor) -> Iterator[tuple[str, str, Any]]:
    """Every verb and path of an RPC, with the rule that says so; the byte routes have none."""
    http = rpc.GetOptions().Extensions[annotations_pb2.http]
    for rule in (http, *http.additional_bindings):
        if verb := rule.WhichOneof("pattern"):
            yield verb.upper(), getattr(rule, verb).replace("/*/", "/{deployment}/"), rule
    if rpc.name in BYTES:
        verb, path = BYTES[rpc.name]
        yield from ((verb, form + path, None) for form in FORMS)


def _public() -> Iterator[tuple[str, str, Schema]]:
    """The routes that need no key."""
    described = _answer("An OpenAPI 3.1 document.", {JSON: {"schema": {"type": "object"}}})
    yield "/openapi.json", "GET", _open("getOpenapi", "This description", {"200": described})
    for path, summary, answers in (
        ("liveliness", "Whether the process is alive", {"200": ["alive"]}),
        ("liveness", "Another name of liveliness", {"200": ["alive"]}),
        ("readiness", "Whether the service answers", {"200": ["ready"], "503": ["not_serving", "unreachable"]}),
    ):
        shown = {status: _answer(*_health(words)) for status, words in answers.items()}
        bare = {status: _answer(*_health(words)[:1]) for status, words in answers.items()}
        yield f"/health/{path}", "GET", _open(f"get{path.title()}", summary, shown)
        yield f"/health/{path}", "HEAD", _open(f"head{path.title()}", summary, bare)


def _open(operation: str, summary: str, responses: Schema) -> Schema:
    return {"operationId": operation, "tags": ["server"], "summary": summary, "security": [], "responses": responses}


def _health(words: list[str]) -> tuple[str, Schema]:
    status = {"type": "string", "enum": words}
    schema = {"type": "object", "required": ["status"], "properties": {"status": status}}
    return f"{' or '.join(words).replace('_', ' ').capitalize()}.", {JSON: {"schema": schema}}


def _shared_parameters(path: str) -> Iterable[Schema]:
    named = [name for name in ("batch_id", "file_id") if f"{{{name}}}" in path]
    provider = ["PathProvider"] if "{provider}" in path else ["Provider", "ProviderAlias", "ProviderHeader"]
    provider += ["PathDeployment"] if "{deployment}" in path else []
    models = ["Model", "TargetModelNames", "ModelHeader"] if "/files" in path or "/batches" in path else []
    return (_refer("parameters", name) for name in chain(named, provider, models, ["RequestId"]))


def _content(description: str, *, partial: bool = False) -> Schema:
    headers = {
        "Content-Disposition": text("The name to save it under."),
        "ETag": text("Never changes, as the content doesn't."),
        "Accept-Ranges": {"schema": {"const": "bytes"}},
        **({"Content-Range": text("`bytes FIRST-LAST/SIZE`.")} if partial else {}),
    }
    return _answer(description, {"application/octet-stream": {"schema": BINARY}}, headers)


def _answer(description: str, content: Schema | None = None, headers: Schema | None = None) -> Schema:
    marks = {"X-Request-Id": _refer("headers", "RequestId"), **(headers or {})}
    return {"description": description, "headers": marks, **({"content": content} if content else {})}


def _refer(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


if __name__ == "__main__":
    descriptors, out = map(Path, sys.argv[1:])
    document = Description(Comments(FileDescriptorSet.FromString(descriptors.read_bytes()))).whole()
    out.write_text(json.dumps(document, indent=2) + "\n")
