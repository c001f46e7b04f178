"""Messages as the REST API's JSON and back, compiled from descriptors and the options in `batchyard.options.v1`.

protobuf's own JSON differs where it matters to REST clients: int64 as strings, absent members, enum names. Members
that a message doesn't know are kept where it has a field for them (the option `extra`), both ways.
A field that has no JSON form (a float, bytes that aren't raw JSON) is a TypeError when its message is compiled.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from batchyard.common import members
from batchyard.common.members import MembersError
from batchyard.options.v1 import json_pb2

Write = Callable[[Any], Any]
Read = Callable[[Any, str], Any]
Merge = Callable[[Any, Any, str], None]

_JSON_TYPES: Mapping[int, type] = {
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_STRING: str,
}

_NO_VALUE = "It holds something that no JSON value can be, or is nested too deeply"
_OMITTED = object()
_KINDS: Mapping[type, str] = {
    bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string",
    list: "an array", dict: "an object", type(None): "null",
}  # fmt: skip


class JsonError(Exception):
    """JSON that doesn't fit its message.

    `message` is for people, `param` the path of the member (metadata.tags), `code` OpenAI's word for programs.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def parsed(raw: bytes) -> Any:
    """The JSON value of a request's body, by RFC 8259. Raises JsonError."""
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{error.msg} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        if name := members.deep_member(raw):
            raise _unfit(name, members.TOO_DEEP) from None
        where = _NO_VALUE
    except ValueError:
        where = _NO_VALUE
    raise JsonError(f"We could not parse the JSON body of your request. {where}.")


def from_text(field: FieldDescriptor, text: str) -> Any:
    """A query value as the JSON value it stands for; text that stands for none is left, to be refused as such."""
    kind = str if field.enum_type is not None else json_type(field)
    if kind is int and re.fullmatch("-?[0-9]{1,40}", text):
        return int(text)
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    return text


def writer(kind: type[Message]) -> Write:
    """Compile message -> JSON values: every visible member is written, null where an optional one is absent."""
    constants = _constants(kind)
    fields = [(name, _field_writer(field)) for name, field in visible_fields(kind).items()]
    extra = _extra_field(kind)

    def write(message: Any) -> dict[str, Any]:
        out: dict[str, Any] = dict(constants)
        for name, get in fields:
            value = get(message)
            if value is not _OMITTED:
                out[name] = value
        if extra and (raw := getattr(message, extra)):
            out = {**(_raw_value(raw) or {}), **out}
        return out

    return write


def merger(kind: type[Message]) -> Merge:
    """Compile (message, JSON values, path of these) -> set the message's fields; null is the same as absent.

    What is compiled raises JsonError where the values don't fit.
    """
    constants = _constants(kind)
    setters = {alias: (name, _setter(field, merger)) for alias, (name, field) in readable_names(kind).items()}
    extra = _extra_field(kind)
    fields: Iterable[Any] = kind.DESCRIPTOR.fields
    hidden = {field.name for field in fields} - setters.keys()

    def merge(message: Any, value: Any, path: str) -> None:
        seen: dict[str, Any] = {}
        unknown: dict[str, Any] = {}
        for key, item in _expect(value, dict, path).items():
            at = f"{path}.{key}" if path else key
            if key in setters and item is not None:
                name, setter = setters[key]
                if seen.setdefault(name, item) != item:
                    raise JsonError(f"'{at}' is given twice, with two values.", param=at, code="invalid_value")
                _set(setter, message, item, at)
            elif key not in setters and item != constants.get(key, _OMITTED):
                if not extra or key in hidden:
                    raise unknown_parameter(at)
                unknown[key] = item
        if extra and unknown:
            setattr(message, extra, _passed_on(unknown))

    return merge


def absorber(kind: type[Message]) -> Merge:
    """Compile what `merger` does for an object that a provider sent, which is never refused.

    What is compiled leaves members out that don't fit, and writes an enum's unknown word to its fallback.
    """
    constants = _constants(kind)
    setters = {name: (field, _setter(field, absorber)) for name, field in visible_fields(kind).items()}
    extra = _extra_field(kind)

    def absorb(message: Any, value: Any, path: str) -> None:
        given = _expect(value, dict, path)
        for name, (field, setter) in setters.items():
            if (item := given.get(name)) is not None:
                try:
                    _set(setter, message, item, name)
                except JsonError:
                    if (fallback := options(field).fallback) and isinstance(item, str):
                        setattr(message, fallback, item)
        unknown = {key: given[key] for key in given.keys() - setters.keys() - constants.keys()}
        if extra and unknown:
            setattr(message, extra, members.writable(unknown))

    return absorb


def unknown_parameter(path: str) -> JsonError:
    """What is said of a member that nobody knows."""
    return JsonError(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")


def visible_fields(kind: type[Message]) -> Mapping[str, FieldDescriptor]:
    """The fields that JSON shows, by their JSON name: the proto's own, unless it gives another."""
    fields: Iterable[Any] = kind.DESCRIPTOR.fields
    return {
        field.name if field.json_name.lower() == field.name.replace("_", "") else field.json_name: field
        for field in fields
        if not (options(field).hidden or options(field).extra)
    }


def readable_names(kind: type[Message]) -> Mapping[str, tuple[str, FieldDescriptor]]:
    """Every name that is read for a field, aliases too, with the field's JSON name."""
    visible = visible_fields(kind).items()
    return {alias: (name, field) for name, field in visible for alias in (name, *options(field).aliases)}


def header_fields(kind: type[Message]) -> Mapping[str, FieldDescriptor]:
    """The fields that HTTP headers stand for, by their names in lower case."""
    fields: Iterable[Any] = kind.DESCRIPTOR.fields
    return {header: field for field in fields if (header := options(field).header)}


def header_reader(kind: type[Message]) -> Callable[[Any, Sequence[tuple[str, str]]], None]:
    """Compile (message, headers with lower-case names) -> set the message's fields.

    What is compiled raises JsonError where a field's header comes twice, with two values.
    """
    fields = {header: (field.name, options(field).header_word) for header, field in header_fields(kind).items()}

    def read(message: Any, headers: Sequence[tuple[str, str]]) -> None:
        seen: dict[str, str] = {}
        for header, value in headers:
            name, word = fields.get(header, ("", ""))
            if name and not word:
                if seen.setdefault(header, value) != value:
                    text = f"The {header} header is given twice, with two values."
                    raise JsonError(text, param=header, code="invalid_value")
                setattr(message, name, value)
            elif name and word in map(str.strip, value.lower().split(",")):
                setattr(message, name, True)

    return read


def header_writer(kind: type[Message], member: str) -> Callable[[Any], dict[str, str]]:
    """Compile message -> the headers that its member, if that is one message, is written to beside its JSON."""
    field: Any = kind.DESCRIPTOR.fields_by_name[member] if member else None
    names = header_fields(GetMessageClass(field.message_type)) if field and field.message_type else {}
    found = [(header, field.name) for header, field in names.items()]
    return lambda message: {header: str(getattr(getattr(message, member), name)) for header, name in found}


def json_type(field: FieldDescriptor) -> type:
    """int, bool or str: the JSON form of a plain field."""
    if field.cpp_type not in _JSON_TYPES or field.type == FieldDescriptor.TYPE_BYTES:
        raise TypeError(f"{field.full_name} has no JSON form")
    return _JSON_TYPES[field.cpp_type]


def options(field: FieldDescriptor) -> json_pb2.JsonField:
    """What the contract says of a field's JSON form."""
    return field.GetOptions().Extensions[json_pb2.json]


def map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    """The value of a map's entries; None for what isn't a map."""
    entry = field.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else None


def enum_words(enum: EnumDescriptor) -> dict[str, int]:
    """An enum's words in JSON, and their numbers; 0 is written where it comes, and never read."""
    prefix = enum.GetOptions().Extensions[json_pb2.json_prefix]
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values}


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _extra_field(kind: type[Message]) -> str:
    fields: Iterable[Any] = kind.DESCRIPTOR.fields
    return next((field.name for field in fields if options(field).extra), "")


def _passed_on(unknown: dict[str, Any]) -> bytes:
    try:
        return members.written(unknown)
    except MembersError as error:
        if error.name.isprintable():
            raise _unfit(error.name, error.problem) from None
        raise JsonError(f"A member that is not known: {error.problem}", code="invalid_value") from None


def _unfit(name: str, problem: str) -> JsonError:
    return JsonError(f"Invalid '{name}': {problem}", param=name, code="invalid_value")


def _field_writer(field: FieldDescriptor) -> Write:
    name, absent, write = field.name, options(field).absent, _shape_writer(field)
    if fallback := options(field).fallback:
        return lambda message: write(number) if (number := getattr(message, name)) else getattr(message, fallback)
    empty = _OMITTED if absent == json_pb2.JsonField.ABSENT_OMIT else None
    if field.has_presence:
        return lambda message: write(getattr(message, name)) if message.HasField(name) else empty
    if absent == json_pb2.JsonField.ABSENT_UNSPECIFIED:
        return lambda message: write(getattr(message, name))
    return lambda message: write(value) if (value := getattr(message, name)) else empty


def _shape_writer(field: FieldDescriptor) -> Write:
    if entry := map_value(field):
        value = _value_writer(entry)
        return lambda items: {key: value(items[key]) for key in items}
    one = _value_writer(field)
    return (lambda items: [one(item) for item in items]) if field.is_repeated else one


def _value_writer(field: FieldDescriptor) -> Write:
    if field.message_type is not None:
        return writer(GetMessageClass(field.message_type))
    if field.enum_type is not None:
        words = {number: word for word, number in enum_words(field.enum_type).items()}
        return lambda number: words.get(number, str(number))
    if options(field).raw:
        return _raw_value
    json_type(field)
    return lambda value: value


def _raw_value(raw: bytes) -> Any:
    """The value of a raw field; null where it holds none that is JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _set(setter: Merge, message: Any, item: Any, path: str) -> None:
    try:
        setter(message, item, path)
    except UnicodeError as error:
        raise JsonError(f"Invalid '{path}': not valid Unicode.", param=path, code="invalid_value") from error
    except (ValueError, OverflowError) as error:
        text = f"Invalid '{path}': the integer is out of range."
        raise JsonError(text, param=path, code="invalid_value") from error


def _setter(field: FieldDescriptor, compile_: Callable[[type[Message]], Merge]) -> Merge:
    name = field.name
    read = _value_reader(map_value(field) or field, compile_)

    def set_map(message: Any, item: Any, path: str) -> None:
        values = _expect(item, dict, path).items()
        getattr(message, name).update({key: read(value, f"{path}.{key}") for key, value in values})

    def set_list(message: Any, item: Any, path: str) -> None:
        values = enumerate(_expect(item, list, path))
        getattr(message, name).extend([read(value, f"{path}[{index}]") for index, value in values])

    if field.is_repeated:
        return set_map if map_value(field) else set_list
    if field.message_type is not None:
        return lambda message, item, path: getattr(message, name).CopyFrom(read(item, path))
    return lambda message, item, path: setattr(message, name, read(item, path))


def _value_reader(field: FieldDescriptor, compile_: Callable[[type[Message]], Merge]) -> Read:
    if field.message_type is not None:
        return _message_reader(GetMessageClass(field.message_type), compile_)
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if options(field).raw:
        return _raw_reader
    kind = json_type(field)
    return lambda value, path: _expect(value, kind, path)


def _raw_reader(value: Any, path: str) -> bytes:
    if members.is_deeper(value, members.MOST_DEPTH):
        raise _unfit(path, members.TOO_DEEP)
    return json.dumps(value).encode()


def _message_reader(kind: type[Message], compile_: Callable[[type[Message]], Merge]) -> Read:
    merge = compile_(kind)

    def read(value: Any, path: str) -> Message:
        message = kind()
        merge(message, value, path)
        return message

    return read


def _enum_reader(enum: EnumDescriptor) -> Read:
    numbers = {word: number for word, number in enum_words(enum).items() if number}  # 0 stands for absent
    choices = ", ".join(f"'{word}'" for word in numbers)

    def read(value: Any, path: str) -> int:
        number = numbers.get(_expect(value, str, path))
        if number is None:
            text = f"Invalid value: '{value}'. Supported values are: {choices}."
            raise JsonError(text, param=path, code="invalid_value")
        return number

    return read


def _expect(value: Any, kind: type, path: str) -> Any:
    # By identity: in Python a bool is an int, in JSON it isn't.
    if type(value) is kind:
        return value
    subject = f" for '{path}'" if path else ""
    text = f"Invalid type{subject}: expected {_KINDS[kind]}, but got {_KINDS[type(value)]} instead."
    raise JsonError(text, param=path or None, code="invalid_type")


def _constants(kind: type[Message]) -> dict[str, str]:
    constant = kind.DESCRIPTOR.GetOptions().Extensions[json_pb2.json_object]
    return {"object": constant} if constant else {}
