"""The results as a table in Markdown, with the goals beside them."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from tests.bench.measure import APART, CONTROL, LITELLM_CACHED, PORTKEY, RISE, SERVE, Row

_SIDES = (SERVE, APART)
_NONE = "–"


class Goal(NamedTuple):
    """What a row must show of each side, in its unit; empty: nothing."""

    serve: str = ""
    apart: str = ""


GOALS = {
    ("REST get, from the registry", "calls/s"): Goal("≥ 2,000", "≥ 1,000"),
    ("REST get, from the registry", "CPU ms"): Goal("≤ 0.5", "≤ 1.5"),
    ("REST get, upstream each", "calls/s"): Goal("≥ 1,000", "≥ 700"),
    ("REST get, upstream each", "CPU ms"): Goal("≤ 1.0", "≤ 2.0"),
    ("REST get, upstream each, 1 in flight", "p50 ms"): Goal("≤ 1.2", "≤ 2.2"),
    ("REST get, upstream each, 256 in flight", "p99 ms"): Goal("≤ 400", "≤ 500"),
    ("REST create, durable", "calls/s"): Goal("≥ 1,000", "≥ 600"),
    ("gRPC get, from the registry", "calls/s"): Goal("≥ 1,500"),
    ("upload to a provider", "MB/s"): Goal("≥ 330", "≥ 270"),
    ("upload to a provider", "MiB rise"): Goal("≤ 8", "≤ 16"),
    ("upload, validated and stored", "MB/s"): Goal("≥ 150", "≥ 130"),
    ("scan alone", "MB/s"): Goal("≥ 200"),
    ("longest health check meanwhile", "ms"): Goal("≤ 50"),
    ("download from a provider", "MB/s"): Goal("≥ 440", "≥ 330"),
    ("download from a provider", "MiB rise"): Goal("≤ 8", "≤ 16"),
    ("download from a provider", "CPU s a GB"): Goal("≤ 2.5", "≤ 5"),
    ("8 uploads to a provider at once", "MiB rise"): Goal("≤ 64", "≤ 96"),
    ("8 uploads to a provider at once", "failures"): Goal("0", "0"),
    ("durable lines, 64 in flight", "lines/s a core"): Goal("≥ 2,500"),
    ("start to ready", "s"): Goal("≤ 1.5"),
    ("idle memory of all processes", "MB"): Goal("≤ 120"),
    ("installed size", "MB"): Goal("≤ 150"),
}


PEERS_GOALS = {
    (LITELLM_CACHED, SERVE): "≥ 20",
    (LITELLM_CACHED, APART): "≥ 15",
    (PORTKEY, SERVE): "≥ 1.5",
    (PORTKEY, APART): "≥ 1.1",
}
"""Ratios of the reads that go upstream."""


def own_tables(rows: Iterable[Row]) -> str:
    """Both sides with their goals, and their ratios to the control."""
    head = ("figure", SERVE, "goal", APART, "goal", CONTROL, *(f"{side} / {CONTROL}" for side in _SIDES))
    lines = []
    for row in rows:
        goal = GOALS.get((row.name, row.unit), Goal())
        sides = (_cell(row, SERVE), goal.serve, _cell(row, APART), goal.apart, _cell(row, CONTROL))
        lines.append((_label(row), *sides, *(_ratio(row, side, CONTROL) for side in _SIDES)))
    return _table(head, lines)


def peers_tables(rows: Sequence[Row]) -> str:
    """What each came to; then both sides by each peer, with the goals."""
    peers = [side for side in rows[0].values if side not in {*_SIDES, CONTROL}]
    shown, pairs = (*_SIDES, *peers, CONTROL), [(side, peer) for peer in peers for side in _SIDES]
    absolute = [(_label(row), *(_cell(row, one) for one in shown)) for row in rows]
    ratios = [(_label(row), *(_ratio(row, *pair) for pair in pairs)) for row in rows]
    goals = ("goal", *(PEERS_GOALS.get((peer, side), "") for side, peer in pairs))
    by = [f"{side} / {peer}" for side, peer in pairs]
    return f"{_table(('figure', *shown), absolute)}\n\n{_table(('figure', *by), [ratios[0], goals, *ratios[1:]])}"


def _label(row: Row) -> str:
    return f"{row.name}, {row.unit}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(one)} |" for one in (head, marks, *lines))


def _cell(row: Row, side: str) -> str:
    """The median of the rounds, and how far they are apart."""
    values = row.values.get(side)
    return _spread(values) if values else _NONE


def _ratio(row: Row, ours: str, theirs: str) -> str:
    """The median of the rounds' ratios, and their spread."""
    pairs = zip(row.values.get(ours, ()), row.values.get(theirs, ()), strict=False)
    least = 1 if row.unit == RISE else 0  # next to nothing is nothing to compare with
    ratios = [mine / other for mine, other in pairs if other > least]
    return _spread(ratios) if ratios else _NONE


def _spread(values: Sequence[float]) -> str:
    middle = _number(median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    """Three digits that count, and no fewer where there are more before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10 or value == int(value):
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
