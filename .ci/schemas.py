"""The contract's messages as JSON schemas, by the rules of `batchyard.common.jsonmap`, with their comments."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from batchyard.common.jsonmap import enum_words, json_type, map_value, options, readable_names, visible_fields
from batchyard.options.v1 import json_pb2

Schema = dict[str, Any]

# What the service checks beyond types (batchyard.service.requests); the tests compare.
PURPOSES = ["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]
_ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses"]
LIMITS: Mapping[str, Schema] = {
    "CreateBatchRequest.input_file_id": {"minLength": 1, "maxLength": 256},
    "CreateBatchRequest.endpoint": {"enum": [*_ENDPOINTS, *(name.removeprefix("/v1") for name in _ENDPOINTS)]},
    "CreateBatchRequest.completion_window": {"enum": ["24h"]},
    "CreateBatchRequest.metadata": {
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
    "CreateBatchRequest.idempotency_key": {"maxLength": 255},
    "ExpiresAfter.anchor": {"enum": ["created_at"]},
    "ExpiresAfter.seconds": {"minimum": 3600, "maximum": 2_592_000},
    "ListBatchesRequest.limit": {"minimum": 1, "maximum": 100, "default": 20},
    "ListFilesRequest.limit": {"minimum": 1, "maximum": 10_000, "default": 10_000},
    "ListFilesRequest.order": {"default": "desc"},
    "UploadFileMetadata.purpose": {"enum": PURPOSES},
}
_REQUIRED: Mapping[str, list[str]] = {
    "CreateBatchRequest": ["endpoint", "completion_window"],
    "OutputFolder": ["url"],
    "ExpiresAfter": ["anchor", "seconds"],
}


class Comments:
    """The comments of a contract, by the full name of what they are about."""

    def __init__(self, described: FileDescriptorSet) -> None:
        self._texts = {
            _name_at(file, location.path): " ".join(location.leading_comments.split())
            for file in described.file
            for location in file.source_code_info.location
            if location.leading_comments and len(location.path) % 2 == 0
        }

    def of(self, full_name: str) -> str:
        """The comment in one line, without the name that it begins with: of `Batch is one job.`, `One job.`"""
        text = self._texts[full_name].removeprefix(full_name.rpartition(".")[2]).lstrip().removeprefix("is ")
        return text[0].upper() + text[1:]

    def sentences(self, full_name: str) -> tuple[str, str]:
        """The first sentence, without its full stop, and the rest."""
        first, _, rest = self.of(full_name).partition(". ")
        return first.removesuffix("."), rest


class Schemas:
    """The schemas that were asked for, by the names under which they are referred to."""

    def __init__(self, comments: Comments) -> None:
        self.made: dict[str, Schema] = {}
        self._comments = comments

    def answer(self, kind: type[Message]) -> Schema:
        """A reference to what is written: every member is there, null where an optional one is absent."""
        return self._refer(kind, self._written)

    def request(self, kind: type[Message]) -> Schema:
        """A reference to what is read: nothing unknown, and null is the same as absent."""
        return self._refer(kind, self._read)

    def field(self, field: FieldDescriptor) -> Schema:
        """A field's values as a request has them, within its bounds."""
        return self._value(field, self.request) | LIMITS.get(_local(field), {})

    def description(self, field: FieldDescriptor) -> Schema:
        return {"description": self._comments.of(field.full_name)}

    def _refer(self, kind: type[Message], make: Any) -> Schema:
        name = kind.DESCRIPTOR.full_name.removeprefix(f"{kind.DESCRIPTOR.file.package}.").replace(".", "")
        if name not in self.made:
            self.made[name] = {}  # takes its place before what it refers to
            self.made[name] |= make(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _written(self, kind: type[Message]) -> Schema:
        members: dict[str, Schema] = {}
        if constant := kind.DESCRIPTOR.GetOptions().Extensions[json_pb2.json_object]:
            members["object"] = {"const": constant}
        required = list(members)
        for name, field in visible_fields(kind).items():
            absent = options(field).absent
            optional = field.has_presence or absent == json_pb2.JsonField.ABSENT_NULL
            schema = self._value(field, self.answer)
            if absent != json_pb2.JsonField.ABSENT_OMIT:
                required.append(name)
                schema = _nullable(schema) if optional else schema
            members[name] = schema | self.description(field)
        return self._object(kind, members, required)

    def _read(self, kind: type[Message]) -> Schema:
        required = _REQUIRED.get(kind.DESCRIPTOR.name, [])
        members: dict[str, Schema] = {}
        for alias, (name, field) in readable_names(kind).items():
            schema = self.field(field)
            note = self.description(field) if alias == name else {"description": f"Another name of `{name}`."}
            members[alias] = (schema if name in required else _nullable(schema)) | note
        return self._object(kind, members, required) | {"additionalProperties": _is_open(kind)}

    def _object(self, kind: type[Message], members: dict[str, Schema], required: list[str]) -> Schema:
        description = self._comments.of(kind.DESCRIPTOR.full_name)
        return {"type": "object", "description": description, "required": required, "properties": members}

    def _value(self, field: FieldDescriptor, refer: Any) -> Schema:
        if entry := map_value(field):
            return {"type": "object", "additionalProperties": self._one(entry, refer)}
        one = self._one(field, refer)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor, refer: Any) -> Schema:
        if field.message_type is not None:
            return dict(refer(GetMessageClass(field.message_type)))
        if field.enum_type is not None:
            words = [word for word, number in enum_words(field.enum_type).items() if number]
            return {"type": "string", ("examples" if options(field).fallback else "enum"): words}
        if options(field).raw:
            return {}
        return _SCALARS[json_type(field)] | ({"format": "int64"} if field.type == FieldDescriptor.TYPE_INT64 else {})


_SCALARS: Mapping[type, Schema] = {int: {"type": "integer"}, bool: {"type": "boolean"}, str: {"type": "string"}}


def _is_open(kind: type[Message]) -> bool:
    """Whether members that the message doesn't know are kept."""
    fields: Any = kind.DESCRIPTOR.fields
    return any(options(field).extra for field in fields)


def _nullable(schema: Schema) -> Schema:
    if "type" not in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    return schema | {"type": [schema["type"], "null"]}


def _local(field: FieldDescriptor) -> str:
    return f"{field.containing_type.name}.{field.name}"


def _name_at(file: Any, path: Any) -> str:
    """The full name of what a path of field numbers and indices leads to."""
    at, names = file, [file.package]
    for number, index in zip(path[::2], path[1::2], strict=True):
        at = getattr(at, at.DESCRIPTOR.fields_by_number[number].name)[index]
        names.append(at.name)
    return ".".join(names)
