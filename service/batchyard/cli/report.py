"""What the command tells about its settings. No secret is in it."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from batchyard.service.config.settings import Key, Member, Quotas, Settings
from batchyard.service.config.sources import key_name, keys

log = logging.getLogger("batchyard.cli")


def settings(found: Settings) -> str:
    """A line for each key, `batchyard.port: 4000`, and one for each warning. Secrets are `set` or `not set`."""
    lines = [f"{key_name(path)}: {_shown(found, path)}" for path in keys()]
    lines += [f"deployment {one.name}: {one.provider} at {one.api_base}" for one in found.deployments]
    lines += [f"group {group.name}: {_member(one)}" for group in found.model_groups for one in group.members]
    lines += [f"tenant {one.name}: {', '.join(_quotas(one.limits)) or 'the limits of all'}" for one in found.tenants]
    lines += [f"key {key.name}: {_key(key)}" for key in found.keys]
    return "".join(f"{line}\n" for line in [*lines, *(f"warning: {text}" for text in found.warnings)])


def log_found(config: Path | None, found: Settings, *, runs_batches: bool) -> None:
    """Logs what a server starts with; a shim alone, which doesn't run batches, has no providers and no data."""
    source = config or "the environment"
    if not runs_batches:
        log.info("settings from %s", source)
    else:
        _log_providers(source, found)
    for warning in found.warnings:
        log.warning("%s", warning)


def _log_providers(source: Path | str, found: Settings) -> None:
    log.info(
        "settings from %s; providers: %s; default: %s; data in %s",
        source,
        ", ".join(_providers(found)) or "none",
        found.default_provider or "none",
        found.data_dir,
    )


def _providers(found: Settings) -> Iterator[str]:
    if found.local is not None:
        yield "local (echo)" if found.local.echo else "local"
    for deployment in found.deployments:
        yield f"{deployment.name} ({deployment.provider} at {deployment.api_base})"
    if found.model_groups:
        yield f"groups ({', '.join(group.name for group in found.model_groups)})"


def _member(member: Member) -> str:
    return f"{member.name} ({member.model} at {member.deployment}), order {member.order}, weight {member.weight:g}"


def _key(key: Key) -> str:
    allowed = [*key.providers, *(f"group {group}" for group in key.model_groups)]
    return ", ".join([f"tenant {key.tenant}", f"may use {', '.join(allowed) or 'everything'}", *_quotas(key.limits)])


def _quotas(limits: Quotas) -> list[str]:
    return [f"{name} {value}" for name, value in dataclasses.asdict(limits).items() if value is not None]


def _shown(found: Settings, path: tuple[str, ...]) -> str:
    *above, name = path
    owner = getattr(found, above[0]) if above else found
    value = None if owner is None else getattr(owner, name)
    if value is None:
        return "not set"
    if name in {field.name for field in dataclasses.fields(owner) if not field.repr}:
        return "set"
    if isinstance(value, tuple):
        return ", ".join(value)
    # A path may have bytes that are no text.
    return str(value).lower() if isinstance(value, bool) else str(value).encode(errors="backslashreplace").decode()
