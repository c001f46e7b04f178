"""Which member gets the next lines of a batch, how many of them, and why.

Healthy members of the lowest order that has room come first; of these the one with the most free budget of enqueued
tokens (one without a limit before any other), and among equals each gets its weight's share.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from batchyard.service.domain.records import ChunkRecord
from batchyard.service.groups.member import GroupMember
from batchyard.service.jsonl.scanner import Chunk
from batchyard.service.registry.placements import Open, Standing

_LEAST_PART = 4  # a shard takes the rest of the lines, or at least this part of what its member's quota allows
_MOST_REASON = 1000


class Misfit(Exception):
    """Lines at the start of a run that no member will ever take; says why."""

    def __init__(self, chunks: Sequence[Chunk], why: str) -> None:
        super().__init__(why)
        self.chunks = chunks
        self.why = why


class Choice(NamedTuple):
    """The first `chunks` of a run go to `group_member`."""

    group_member: GroupMember
    chunks: Sequence[Chunk]
    reason: str


class _Offer(NamedTuple):
    group_member: GroupMember
    free: float
    chunks: int


def unplaced(scanned: Sequence[Chunk], placed: Iterable[ChunkRecord]) -> list[list[Chunk]]:
    """The runs of chunks that no shard has, in order."""
    taken = sorted((record.start, record.end) for record in placed)
    runs: list[list[Chunk]] = []
    at, last = 0, None
    for n, chunk in enumerate(scanned):
        while at < len(taken) and taken[at][1] <= chunk.offset:
            at += 1
        if at < len(taken) and taken[at][0] <= chunk.offset:
            continue
        if last is None or n != last + 1:
            runs.append([])
        runs[-1].append(chunk)
        last = n
    return runs


def choose(
    run: Sequence[Chunk], members: Sequence[GroupMember], standing: Standing, excluded: Mapping[str, str]
) -> Choice | str:
    """What to place, or why not now; `excluded` are members that refused such lines, and why. Raises Misfit."""
    if not members:
        return "the group is not configured any more"
    if not any(_fitting(run[:1], group_member, inf) for group_member in members):
        raise Misfit(run[:1], "They are beyond the limits of every deployment.")
    able = [group_member for group_member in members if group_member.member.name not in excluded and group_member.ready]
    for order in sorted({group_member.member.order for group_member in able}):
        tier = [group_member for group_member in able if group_member.member.order == order]
        offers = [offer for group_member in tier if (offer := _offer(run, group_member, group_member.held(standing)))]
        if offers:
            best = max(offer.free for offer in offers)
            first = [offer for offer in offers if offer.free == best]
            chosen = _next_by_weight(first)
            return Choice(chosen.group_member, run[: chosen.chunks], _reason(chosen, first, tier))
    return _waiting(members, excluded)


def size_of(chunks: Sequence[Chunk]) -> int:
    """Bytes of a run, blank lines in it included."""
    return chunks[-1].offset + chunks[-1].size - chunks[0].offset


def _offer(run: Sequence[Chunk], group_member: GroupMember, held: Open) -> _Offer | None:
    """What a member would take. Of its quota at least a fair part: many small shards cost more than a little waiting.

    Where nothing is enqueued, a chunk is tried that should not fit: what tokens it has is an estimate.
    """
    limit = group_member.limit
    free = inf if limit is None else max(0, limit - held.tokens)
    most, count = _fitting(run, group_member, inf), _fitting(run, group_member, free)
    if not held.shards:
        count = max(count, min(1, most))
    elif limit is not None and count < most and sum(chunk.tokens for chunk in run[:count]) < limit / _LEAST_PART:
        return None
    return _Offer(group_member, free, count) if count else None


def _fitting(run: Sequence[Chunk], group_member: GroupMember, tokens: float) -> int:
    """How many chunks of the run's start are within a member's lines and bytes, and these tokens."""
    lines = enqueued = 0
    for count, chunk in enumerate(run):
        lines += chunk.requests
        enqueued += chunk.tokens
        size = chunk.offset + chunk.size - run[0].offset + lines * group_member.growth
        if lines > group_member.member.max_lines or size > group_member.member.max_bytes or enqueued > tokens:
            return count
    return len(run)


def _next_by_weight(offers: Sequence[_Offer]) -> _Offer:
    """One of equals, in turns: smooth weighted round robin."""
    for offer in offers:
        offer.group_member.credit += offer.group_member.member.weight
    chosen = max(offers, key=lambda offer: offer.group_member.credit)
    chosen.group_member.credit -= sum(offer.group_member.member.weight for offer in offers)
    return chosen


def _reason(chosen: _Offer, equals: Sequence[_Offer], tier: Sequence[GroupMember]) -> str:
    """Callers read it: nothing in it may show what other tenants have there, or what was said to them."""
    if len(tier) == 1:
        return f"the only one of order {chosen.group_member.member.order} that can be asked now"
    if len(equals) > 1:
        return f"by weight, of {len(equals)} with as much free budget"
    return f"the most free budget of {len(tier)}"


def _waiting(members: Sequence[GroupMember], excluded: Mapping[str, str]) -> str:
    told = "; ".join(f"{group_member.member.name}: {_why_not(group_member, excluded)}" for group_member in members)
    return f"waiting for a deployment: {told}"[:_MOST_REASON]


def _why_not(group_member: GroupMember, excluded: Mapping[str, str]) -> str:
    if group_member.member.name in excluded:
        return f"refused these lines: {excluded[group_member.member.name]}"
    if group_member.pause:
        return "refused lately, asked again later"
    if not group_member.provider.available:
        return "can't be reached"
    return "its budget is used up"
