"""`batchyard keys`: keys of tenants, made and ended over gRPC with the master key."""

import argparse
from collections.abc import Callable, Mapping

from batchyard.admin.v1 import CreateKeyRequest, CreateKeyResponse, Key, KeyLimits, KeyState, RotateKeyResponse
from batchyard.cli.client import Client
from batchyard.cli.console import Console, cut, time_of

_HEAD = ("ID", "TENANT", "NAME", "STATE", "EXPIRES", "MAY USE")
_NARROW = 14  # columns of a tenant's or key's name, where a terminal has no room for more


def _create(client: Client, given: argparse.Namespace, console: Console) -> None:
    request = CreateKeyRequest(
        tenant=given.tenant,
        name=given.name,
        providers=given.allow_provider,
        model_groups=given.allow_group,
        lifetime_seconds=given.expires_in,
        limits=KeyLimits(**dict(given.limit)),
    )
    _tell_secret(client.create_key(request), console, as_json=given.json)


def _list(client: Client, given: argparse.Namespace, console: Console) -> None:
    after, more = given.after, True
    rows: list[Key] = []
    while more:
        page = client.keys(given.tenant, after, given.limit)
        if given.json:
            console.print_json(page)
        rows += page.data
        after, more = page.last_id, page.has_more and given.all
    if given.json:
        return
    console.print_table([_HEAD, *map(_row, rows)], [_HEAD, *map(_narrow_row, rows)])
    if page.has_more:
        console.say(f"there are more: --after {after}")


def _rotate(client: Client, given: argparse.Namespace, console: Console) -> None:
    _tell_secret(client.rotate_key(given.key, given.grace), console, as_json=given.json)


def _revoke(client: Client, given: argparse.Namespace, console: Console) -> None:
    key = client.revoke_key(given.key)
    if given.json:
        console.print_json(key)
    else:
        console.print(f"{key.id} {_state(key)}")


ACTIONS: Mapping[str, Callable[[Client, argparse.Namespace, Console], None]] = {
    "create": _create,
    "list": _list,
    "rotate": _rotate,
    "revoke": _revoke,
}


def _tell_secret(answer: CreateKeyResponse | RotateKeyResponse, console: Console, *, as_json: bool) -> None:
    if as_json:
        console.print_json(answer)
    else:
        console.print(answer.secret)
        console.say(f"the secret of {answer.key.id}, of tenant {answer.key.tenant}; it is not shown again")


def _row(key: Key) -> tuple[str, ...]:
    ends = time_of(key.expires_at) if key.HasField("expires_at") else "never"
    allowed = [*key.providers, *(f"group {group}" for group in key.model_groups)]
    return key.id, key.tenant, key.name, _state(key), ends, ", ".join(allowed) or "everything"


def _narrow_row(key: Key) -> tuple[str, ...]:
    key_id, tenant, name, state, ends, allowed = _row(key)
    return key_id, cut(tenant, _NARROW), cut(name, _NARROW), state, ends.partition("T")[0], allowed


def _state(key: Key) -> str:
    return KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()
