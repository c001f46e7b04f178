"""What is known of a member of a group: whether it may be asked for work now, and how much it takes."""

import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from batchyard.service.config.settings import GroupSettings, Member
from batchyard.service.providers.remote.provider import RemoteProvider
from batchyard.service.registry.placements import Open, Standing

_LEARNED_SECONDS = 600.0  # how long a limit counts that we only guess; one that the provider told counts longer
_TOLD_SECONDS = 3600.0
_LIMIT = re.compile(r"limit(?: of|:)?\s*([\d.,]{0,24}\d)\s*([KMB])?\b", re.IGNORECASE)
_UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_MOST_WHY = 300
_MOST_HINT = 86_400.0  # seconds; no batch waits for longer
_NOTHING = Open()


class GroupMember:
    """A member, the deployment that it is at, and what its answers taught. `steady` is a clock that never jumps."""

    def __init__(
        self,
        group: str,
        member: Member,
        provider: RemoteProvider,
        settings: GroupSettings,
        steady: Callable[[], float],
    ) -> None:
        self.group = group
        self.member = member
        self.growth = max(0, len(member.model.encode()) - len(group.encode())) + len("/v1")  # of a line, on its way
        self.provider = provider
        self.credit = 0.0  # among equals, by weight: see `placing`
        self.refusal = ""
        self._settings = settings
        self._steady = steady
        self._random = Random()  # noqa: S311 - jitter
        self._refusals = 0
        self._paused_until = 0.0
        self._learned: tuple[int, float] | None = None

    def is_at(self, member: Member) -> bool:
        """Whether a member is this one, at the same deployment and with the same model."""
        mine = self.member
        return (mine.name, mine.deployment, mine.model) == (member.name, member.deployment, member.model)

    def held(self, standing: Standing) -> Open:
        """What is open here."""
        return standing.get((self.member.deployment, self.member.model), _NOTHING)

    @property
    def limit(self) -> int | None:
        """How many tokens may be enqueued here: as configured, or as the provider lately showed; None: nobody knows."""
        if self._learned and self._learned[1] > self._steady():
            return self._learned[0]
        return self.member.enqueued_tokens

    @property
    def ready(self) -> bool:
        return self.provider.available and not self.pause

    @property
    def pause(self) -> float:
        """Seconds for which it is left alone."""
        return max(0.0, self._paused_until - self._steady())

    def refused(self, why: str, hint: float | None = None) -> None:
        """It can't take work now; `hint` is its own word for how many seconds."""
        self.refusal = why[:_MOST_WHY]
        first, most = self._settings.backoff_seconds, self._settings.max_backoff_seconds
        usual = min(first * 2 ** min(self._refusals, 32), most) * self._random.uniform(0.75, 1.25)
        self._refusals += 1
        self._paused_until = self._steady() + max(usual, min(hint or 0.0, _MOST_HINT))

    def full(self, why: str, wanted: int, enqueued: int) -> None:
        """It refused `wanted` tokens while `enqueued` of ours were there: others may use it too. We try with less."""
        told = _told_limit(why)
        if told is not None and told < enqueued + wanted:
            self._learned = (told, self._steady() + _TOLD_SECONDS)
        else:
            self._learned = (enqueued + wanted // 2, self._steady() + _LEARNED_SECONDS)
        self.refused(why)

    def worked(self, enqueued: int) -> None:
        """It took a shard, so that `enqueued` tokens of ours are there."""
        self._refusals = 0
        self.refusal = ""
        if self._learned and enqueued > self._learned[0]:
            self._learned = None


def _told_limit(text: str) -> int | None:
    """The limit in a provider's words (facts 3.5 and 3.6), if there is one."""
    found = _LIMIT.search(text)
    if not found:
        return None
    try:
        return int(float(found[1].replace(",", "")) * _UNITS[(found[2] or "").upper()])
    except (ValueError, OverflowError):
        return None


class MemberState(NamedTuple):
    """A member of a model group as it is now; `batchyard.admin.v1.Member` says what each figure means."""

    group: str
    name: str
    model: str
    deployment: str
    order: int
    weight: float
    limit: int | None
    enqueued: int
    shards: int
    paused_until: int | None
    refusal: str | None
