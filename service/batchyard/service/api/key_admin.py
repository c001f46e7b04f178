"""Keys as those who run the service ask for them: requests become checked values, records become messages."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields

from batchyard.admin.v1 import (
    CreateKeyRequest,
    CreateKeyResponse,
    Key,
    KeyLimits,
    KeySource,
    KeyState,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RevokeKeyResponse,
    RotateKeyRequest,
    RotateKeyResponse,
)
from batchyard.service.access.authenticator import Authenticator
from batchyard.service.api.validation import page_limit, required
from batchyard.service.config.settings import Quotas
from batchyard.service.config.types import DAY, TRILLION
from batchyard.service.domain.keys import CONFIGURED, KeyRecord
from batchyard.service.domain.wording import too_long, within
from batchyard.service.errors import FailedPrecondition, InvalidArgument
from batchyard.service.providers.router import Router

MOST_NAME = 64
MOST_ALLOWED = 100
MOST_GRACE = 30 * DAY
MOST_LIFETIME = 3650 * DAY
MOST_KEYS = 100  # on a page
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUOTAS = [field.name for field in fields(Quotas)]


class KeyAdmin:
    """Makes, lists, rotates and revokes keys."""

    def __init__(
        self,
        keys: Authenticator,
        router: Router,
        groups: Collection[str],
        clock: Callable[[], float],
        ended: Callable[[], None],
    ) -> None:
        """`groups` are the names of the model groups; `ended` is told when a key has ended."""
        self._keys = keys
        self._router = router
        self._groups = groups
        self._clock = clock
        self._ended = ended

    async def create(self, request: CreateKeyRequest) -> CreateKeyResponse:
        """Raises InvalidArgument for the first field that is missing or wrong."""
        check_tenant(required(request.tenant, "tenant"))
        _check_name(required(request.name, "name"))
        record = KeyRecord(
            id="",
            tenant=request.tenant,
            name=request.name,
            providers=tuple(map(self._place, _distinct(request.providers, "providers"))),
            model_groups=_distinct(request.model_groups, "model_groups"),
            limits=_quotas(request.limits),
            expires_at=self._expiry(request),
        )
        for group in record.model_groups:
            if group not in self._groups:
                raise InvalidArgument(f"There is no model group '{group}' here.", param="model_groups")
        key, secret = await self._keys.create(record)
        return CreateKeyResponse(key=self._message(key), secret=secret)

    async def listed(self, request: ListKeysRequest) -> ListKeysResponse:
        """Raises InvalidArgument."""
        if request.tenant:
            check_tenant(request.tenant)
        limit = page_limit(request.limit if request.HasField("limit") else None, 20, MOST_KEYS)
        page, more = await self._keys.page(request.tenant, request.after, limit)
        return ListKeysResponse(data=map(self._message, page), has_more=more, last_id=page[-1].id if page else "")

    async def rotate(self, request: RotateKeyRequest) -> RotateKeyResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        key_id = _issued(request.key_id)
        grace = within(request.grace_seconds, "grace_seconds", 0, MOST_GRACE)
        key, secret = await self._keys.rotate(key_id, grace)
        return RotateKeyResponse(key=self._message(key), secret=secret)

    async def revoke(self, request: RevokeKeyRequest) -> RevokeKeyResponse:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        key = await self._keys.revoke(_issued(request.key_id))
        self._ended()
        return RevokeKeyResponse(key=self._message(key))

    def _place(self, name: str) -> str:
        try:
            return self._router.checked(name)
        except InvalidArgument as error:
            error.param = "providers"
            raise

    def _expiry(self, request: CreateKeyRequest) -> int | None:
        now = int(self._clock())
        match request.WhichOneof("expiry"):
            case "expires_at":
                return within(request.expires_at, "expires_at", now + 1, now + MOST_LIFETIME)
            case "lifetime_seconds":
                return now + within(request.lifetime_seconds, "lifetime_seconds", 1, MOST_LIFETIME)
        return None

    def _message(self, key: KeyRecord) -> Key:
        expired = KeyState.KEY_STATE_EXPIRED if key.expired(self._clock()) else KeyState.KEY_STATE_ACTIVE
        configured = key.id.startswith(CONFIGURED)
        return Key(
            id=key.id,
            tenant=key.tenant,
            name=key.name,
            state=expired if key.revoked_at is None else KeyState.KEY_STATE_REVOKED,
            source=KeySource.KEY_SOURCE_CONFIGURATION if configured else KeySource.KEY_SOURCE_REGISTRY,
            providers=key.providers,
            model_groups=key.model_groups,
            limits=KeyLimits(**{name: getattr(key.limits, name) for name in _QUOTAS}),
            created_at=key.created_at,
            rotated_at=key.rotated_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
        )


def check_tenant(tenant: str) -> None:
    """Raises InvalidArgument for what can't be a tenant's name."""
    if not _TENANT.fullmatch(tenant):
        message = "Invalid 'tenant': expected at most 64 letters, digits, '.', '_' and '-'."
        raise InvalidArgument(message, param="tenant")


def _check_name(name: str) -> None:
    if len(name) > MOST_NAME:
        raise too_long("name", MOST_NAME, len(name), "a string")
    if not name.isprintable():
        raise InvalidArgument("Invalid 'name': expected no control characters.", param="name")


def _distinct(names: Iterable[str], param: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(names))
    if len(found) > MOST_ALLOWED or not all(found):
        raise InvalidArgument(f"Invalid '{param}': expected at most {MOST_ALLOWED} names, none empty.", param=param)
    return found


def _quotas(limits: KeyLimits) -> Quotas:
    given = {field.name: value for field, value in limits.ListFields()}
    return Quotas(**{name: within(value, f"limits.{name}", 1, TRILLION) for name, value in given.items()})


def _issued(key_id: str) -> str:
    """The id of a key that is not the configuration's. Raises InvalidArgument, FailedPrecondition."""
    if required(key_id, "key_id").startswith(CONFIGURED):
        message = f"'{key_id}' is in the configuration file, below batchyard.keys: change it there."
        raise FailedPrecondition(message, param="key_id", reason="KEY_CONFIGURED")
    return key_id
