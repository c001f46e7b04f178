"""docs/bad-inputs.md, from the cases and from the tests that are rows of their own."""

from collections.abc import Iterator
from types import ModuleType

from tests.bad_input import calls, disk, files, test_clock, test_details, test_disk, test_disk_at_zero
from tests.bad_input.model import Case, Failed, Fine, Group, Refused, Wrong

INTRO = """\
# Bad inputs

What each bad input is answered. `make bad-inputs` writes this page from the cases in `tests/bad_input`: every row is
sent to a running server over real sockets, on each surface that has an answer here, and afterwards the files, the
batches and the store must be as before. A row without an answer is a test of its own of what happens: disks that are
filled and clocks that are moved in the midst of work, which may change what the row says, and long values. Of long
messages the beginning is shown. [Errors](errors.md) explains the envelope and the gRPC details, [Limits](limits.md)
lists the bounds.

Where the type is not given, it is `invalid_request_error`; param and code are null where they are not. Where a batch
fails, upload and create are answered as usual, and the reasons are in the batch's `errors`.
"""
HEAD = "| bad input | REST | gRPC | what happens |\n|---|---|---|---|"
EXAMPLES = {"$running": "batch_abc", "$held": "file-abc", "$earlier": "file-abc"}
MOST = 160
REFUSED = "Nothing is kept or changed."


def page() -> str:
    """The page's text."""
    tables = [_table(group) for group in (*calls.GROUPS, *files.GROUPS)]
    (full,) = disk.GROUPS
    tables.append(_table(full, test_disk, test_disk_at_zero))
    tables.append(_table(Group("A clock that jumps", []), test_clock))
    tables.append(_table(Group("Long values", []), test_details))
    return "\n".join([INTRO, *tables])


def _table(group: Group, *told: ModuleType) -> str:
    rows = [_row(case) for case in group.cases] + [row for module in told for row in _stories(module)]
    return "\n".join([f"## {group.title}", "", HEAD, *rows, ""])


def _row(case: Case) -> str:
    surfaces = {surface for _, surface in case.ways()}
    rest, grpc, happens = _told(case, surfaces)
    cells = (case.title, rest if "REST" in surfaces else "", grpc if "gRPC" in surfaces else "", happens)
    return _cells(*cells[:3], " ".join(filter(None, (cells[3], case.note))))


def _told(case: Case, surfaces: set[str]) -> tuple[str, str, str]:
    """What REST and gRPC answer, and what happens."""
    match case.outcome:
        case Refused() as refused:
            return _over_rest(refused), _over_grpc(refused, surfaces), REFUSED
        case Failed(errors):
            return "200", "OK", "The batch fails. " + "<br>".join(map(_wrong, errors))
        case Fine(lines):
            return "200", "OK", "The batch completes." if lines else "It works."


def _over_rest(refused: Refused) -> str:
    headers = [f"`{name}: {value}`" for name, value in refused.headers.items()]
    return f"{', '.join([str(refused.status), *headers, *_members(refused)])}: {_short(refused.message)}"


def _over_grpc(refused: Refused, surfaces: set[str]) -> str:
    """Without what stands in REST's answer, and without gRPC's own words."""
    told = [refused.grpc.name, f"`{refused.reason}`"] if refused.reason else [refused.grpc.name]
    if "REST" in surfaces or not refused.reason:
        return ", ".join(told)
    return f"{', '.join([*told, *_members(refused)])}: {_short(refused.message)}"


def _members(refused: Refused) -> list[str]:
    kind = "" if refused.type == "invalid_request_error" else refused.type
    named = (("type", kind), ("code", refused.code), ("param", _short(refused.param or "", 40)))
    return [f"{name} `{value}`" for name, value in named if value]


def _wrong(error: Wrong) -> str:
    where = [f"line {error.line}" if error.line else "", f"param `{error.param}`" if error.param else ""]
    return f"{', '.join(filter(None, (f'`{error.code}`', *where)))}: {_short(error.message)}"


def _short(text: str, most: int = MOST) -> str:
    for name, example in EXAMPLES.items():
        text = text.replace(name, example)
    return text if len(text) <= most else f"{text[:most].rstrip()}…"


def _stories(module: ModuleType) -> Iterator[str]:
    """The tests of a module that say in a docstring what happens."""
    for name, test in vars(module).items():
        if name.startswith("test_") and test.__doc__:
            yield _cells(name.removeprefix("test_").replace("_", " "), "", "", " ".join(test.__doc__.split()))


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
