"""Whom a key lets in: the master key, the keys of the configuration, and those of the registry, by their digests."""

import re
import secrets
from collections.abc import Callable, Sequence
from hashlib import sha256
from hmac import compare_digest
from time import monotonic, time
from typing import NamedTuple

from msgspec import structs

from batchyard.service.config.settings import Key
from batchyard.service.domain.keys import CONFIGURED, DEFAULT_TENANT, Caller, KeyRecord
from batchyard.service.errors import Unauthenticated
from batchyard.service.registry.keys import KeyRegistry, StoredKey, no_cursor

_FORM = re.compile(r"sk-by-([0-9a-f]{16})-[A-Za-z0-9_-]{43}")
_FRESH_SECONDS = 5.0
_MOST_HELD = 4096
_NOBODYS = secrets.token_hex(32)  # a digest that no secret has


class _Held(NamedTuple):
    stored: StoredKey | None
    until: float


class Authenticator:
    """The keys of this service. Without a master key and any in the configuration a caller needs none.

    One of the registry's is checked nevertheless where it is shown.
    """

    def __init__(
        self,
        master_key: str | None,
        configured: Sequence[Key],
        registry: KeyRegistry,
        clock: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """`steady` is a clock that never jumps."""
        self._master = _digest(master_key) if master_key else _NOBODYS
        self._configured = [(_digest(key.key), KeyRecord.configured(key)) for key in configured]
        self._needed = bool(master_key or configured)
        self._registry = registry
        self._clock = clock
        self._steady = steady
        self._held: dict[str, _Held] = {}
        self._changes = 0

    async def caller(self, authorization: str | None) -> Caller:
        """Who an authorization header stands for. Raises Unauthenticated, and Unavailable without the registry.

        Every known digest is compared, in constant time, whichever fits; of the registry's keys the one whose id the
        header names, or nobody's.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        digest, issued = _digest(secret), _FORM.fullmatch(secret)
        if not self._needed and not issued:
            return Caller(DEFAULT_TENANT, master=True, who="anyone")
        if not authorization:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        master = compare_digest(digest, self._master)
        found = [record for known, record in self._configured if compare_digest(digest, known)]
        ended: str | None = None
        if issued:
            record, ended = self._matching(await self._stored(f"key_{issued[1]}"), digest)
            found += [record] if record else []
        if scheme.lower() != "bearer" or not (master or found):
            raise _incorrect(ended)
        if master:
            return Caller(DEFAULT_TENANT, master=True, who="master")
        self._check_time(found[0])
        return Caller(found[0].tenant, master=False, key=found[0])

    async def check(self, key: KeyRecord | None) -> None:
        """Raises Unauthenticated for a key that has let somebody in and doesn't any more."""
        if key is None:
            return
        if not key.id.startswith(CONFIGURED):
            stored = await self._stored(key.id)
            if stored is None or stored.record.revoked_at is not None:
                raise _incorrect(key.id)
        self._check_time(key)

    async def create(self, record: KeyRecord) -> tuple[KeyRecord, str]:
        """Registers a key like `record`, with an id of its own; the key, and its secret, which is told nowhere else."""
        part = secrets.token_hex(8)
        secret = _new_secret(part)
        key = structs.replace(record, id=f"key_{part}", created_at=int(self._clock()))
        await self._registry.add(key, _digest(secret))
        self._forget(key.id)
        return key, secret

    async def page(self, tenant: str, after: str, limit: int) -> tuple[list[KeyRecord], bool]:
        """A page of the keys of a tenant, or of all: the configuration's, then the registry's, newest first.

        Also whether more follow. Raises InvalidArgument for an unknown `after`.
        """
        mine = [record for _, record in self._configured if tenant in ("", record.tenant)]
        if after.startswith(CONFIGURED):
            ids = [record.id for record in mine]
            if after not in ids:
                raise no_cursor(after)
            mine, after = mine[ids.index(after) + 1 :], ""
        elif after:
            mine = []
        made, more = await self._registry.page(tenant, after, limit)
        found = [*mine, *made]
        return found[:limit], more or len(found) > limit

    async def rotate(self, key_id: str, grace_seconds: int) -> tuple[KeyRecord, str]:
        """A key of the registry with another secret; the old one goes on for `grace_seconds`.

        Raises NotFound, and FailedPrecondition where it has ended.
        """
        secret, now = _new_secret(key_id.removeprefix("key_")), int(self._clock())
        key = await self._registry.rotate(key_id, _digest(secret), now, now + grace_seconds)
        self._forget(key_id)
        return key, secret

    async def revoke(self, key_id: str) -> KeyRecord:
        """Ends a key of the registry, at once. Raises NotFound."""
        key = await self._registry.revoke(key_id, int(self._clock()))
        self._forget(key_id)
        return key

    def _matching(self, stored: StoredKey | None, digest: str) -> tuple[KeyRecord | None, str | None]:
        """The key whose secret has this digest; or only its id, if it was revoked, or that secret replaced."""
        current = stored.digest if stored else _NOBODYS
        old = (stored.old_digest if stored else None) or _NOBODYS
        is_current, is_old = compare_digest(digest, current), compare_digest(digest, old)
        if not stored or not (is_current or is_old):
            return None, None
        works = is_current or (stored.old_until or 0) > self._clock()
        if works and stored.record.revoked_at is None:
            return stored.record, None
        return None, stored.record.id

    def _check_time(self, key: KeyRecord) -> None:
        if key.expired(self._clock()):
            raise Unauthenticated("This API key has expired.", code="invalid_api_key", key=key.id)

    async def _stored(self, key_id: str) -> StoredKey | None:
        """The registry's key, as it was not long ago: what changes here counts at once."""
        held = self._held.get(key_id)
        if held and held.until > self._steady():
            return held.stored
        changes = self._changes
        found = await self._registry.find(key_id)
        if found and changes == self._changes:  # ids that strangers make up push no key out
            if len(self._held) >= _MOST_HELD:
                del self._held[next(iter(self._held))]
            self._held[key_id] = _Held(found, self._steady() + _FRESH_SECONDS)
        return found

    def _forget(self, key_id: str) -> None:
        self._changes += 1
        self._held.pop(key_id, None)


def _digest(secret: str) -> str:
    return sha256(secret.encode(errors="replace")).hexdigest()


def _new_secret(part: str) -> str:
    return f"sk-by-{part}-{secrets.token_urlsafe(32)}"


def _incorrect(ended: str | None) -> Unauthenticated:
    return Unauthenticated("Incorrect API key provided.", code="invalid_api_key", key=ended)
