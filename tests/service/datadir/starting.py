"""Data directories that a start meets, and what it leaves of them."""

from pathlib import Path

from tests.harness import Client

STRAYS = ["x.journal", "batch_a.x.aa.journal", f"batch_a.{'9' * 60}.a.journal", ".DS_Store", "\udcff.journal"]


async def uploaded(client: Client, count: int) -> list[str]:
    return [(await client.upload(b"x%d" % number, purpose="user_data")).id for number in range(count)]


def aside(data: Path) -> set[str]:
    """What was moved aside, by its key, without the counts of its age."""
    found = [path for path in (data / "aside").rglob("*") if path.is_file() and path.name != "age"]
    return {"/".join(path.parts[-2:]) for path in found}
