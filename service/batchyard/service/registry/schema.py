"""The registry's tables: one schema for every dialect. Times are Unix seconds; `seq` orders rows by creation."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

Int = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in a column of type INTEGER


def _sequence() -> Column[int]:
    return Column("seq", Int, primary_key=True, autoincrement=True)


def _lease() -> list[Column[object]]:
    """Who works on the row, until when, and how often it changed hands: commits name the epoch they were made in."""
    return [
        Column("lease_owner", String),
        Column("lease_until", Float, nullable=False, server_default="0"),
        Column("epoch", Int, nullable=False, server_default="0"),
    ]


def _upstream() -> list[Column[object]]:
    """Where the thing lives: the deployment and its own id there, what it last said of it in OpenAI's form, and when.

    All null for what we hold ourselves.
    """
    return [
        Column("deployment", String),
        Column("native_id", String),
        Column("upstream", JSON(none_as_null=True)),
        Column("observed_at", Int),
    ]


def _key() -> Column[str]:
    """The id of the key by which the row was made; null where it was the master key, or none was needed."""
    return Column("key_id", String)


def _count(name: str) -> Column[int]:
    return Column(name, Int, nullable=False, server_default="0")


IS_LIVE = text("status NOT IN ('failed', 'completed', 'expired', 'cancelled')")
"""Batches that have not ended, written as in the index over them, which serves only where the words are the same."""

IS_FREE = text(f"{IS_LIVE.text} AND lease_until = 0")
"""Those that nobody works on; the same of its words."""

IS_LEASED = text("lease_until > 0")
IS_ELSEWHERE = text("deployment IS NOT NULL")

USES = text("estimated_lines + estimated_tokens + completed + failed > 0")
"""Batches that count for anything; the same of its words."""

TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")

files = Table(
    "files",
    metadata,
    _sequence(),
    Column("id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("filename", String, nullable=False),
    Column("bytes", Int, nullable=False),
    Column("created_at", Int, nullable=False),
    Column("expires_at", Int),
    Column("status", String, nullable=False),
    Column("status_details", String),
    Column("stats", JSON(none_as_null=True)),
    Column("scan", JSON(none_as_null=True)),
    Column("deleted_at", Int),
    *_upstream(),
    _key(),
    UniqueConstraint("id"),
    Index(None, "tenant", "seq"),
    Index(None, "tenant", "provider", "seq"),
    Index(None, "tenant", "deployment", "seq", sqlite_where=IS_ELSEWHERE),
    Index(None, "deployment", "native_id", unique=True),
    Index(None, "expires_at", sqlite_where=text("deleted_at IS NULL AND expires_at IS NOT NULL")),
    Index(None, "deleted_at", sqlite_where=text("deleted_at IS NOT NULL")),
    Index(None, "tenant", "deleted_at", "key_id", "bytes"),
    sqlite_autoincrement=True,
)

# One row: which registry this is, of which generation, and the newest time that it knows. The data directory that
# belongs to it says the same of the first two.
identity = Table(
    "identity",
    metadata,
    Column("id", String, primary_key=True),
    _count("generation"),
    _count("newest_at"),
)

# A file's content is its parts, in order: immutable objects of the file store, with the checksums of their blocks.
file_parts = Table(
    "file_parts",
    metadata,
    Column("file_seq", Int, primary_key=True, autoincrement=False),
    Column("n", Int, primary_key=True, autoincrement=False),
    Column("key", String, nullable=False),
    Column("size", Int, nullable=False),
    Column("sums", LargeBinary),
    UniqueConstraint("key"),
)

batches = Table(
    "batches",
    metadata,
    _sequence(),
    Column("id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("model", String),
    Column("errors", JSON(none_as_null=True)),
    Column("input_file_id", String, nullable=False),
    Column("completion_window", String, nullable=False),
    Column("status", String, nullable=False),
    Column("output_file_id", String),
    Column("error_file_id", String),
    Column("created_at", Int, nullable=False),
    Column("in_progress_at", Int),
    Column("expires_at", Int, nullable=False),
    Column("finalizing_at", Int),
    Column("completed_at", Int),
    Column("failed_at", Int),
    Column("expired_at", Int),
    Column("cancelling_at", Int),
    Column("cancelled_at", Int),
    _count("total"),
    _count("completed"),
    _count("failed"),
    *(_count(name) for name in TOKENS),
    Column("metadata", JSON, nullable=False),
    Column("output_seconds", Int, nullable=False),
    *_lease(),
    Column("traceparent", String),
    *_upstream(),
    Column("waiting", String),
    _key(),
    _count("estimated_tokens"),
    _count("estimated_lines"),
    UniqueConstraint("id"),
    Index(None, "tenant", "seq"),
    Index(None, "tenant", "provider", "seq"),
    Index(None, "tenant", "deployment", "seq"),
    Index(None, "tenant", "created_at", sqlite_where=USES),
    Index(None, "tenant", "key_id", "estimated_tokens", "estimated_lines", "status", sqlite_where=IS_LIVE),
    Index(None, "deployment", "native_id", unique=True),
    Index(None, "deployment", "tenant", "seq", sqlite_where=text(f"{IS_LIVE.text} AND {IS_ELSEWHERE.text}")),
    Index(None, "tenant", "input_file_id", sqlite_where=IS_LIVE),
    Index(None, "status", "tenant"),
    Index(None, "deployment", "seq", sqlite_where=IS_FREE),
    Index(None, "deployment", "lease_until", sqlite_where=IS_LEASED),
    sqlite_autoincrement=True,
)

# Which batch a caller's idempotency key made, from a request of which digest.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("batch_seq", Int, nullable=False),
    Column("created_at", Int, nullable=False),
    Index(None, "created_at"),
)

# A batch that a deployment was, or is about to be, asked to create, and whose answer is not known.
intents = Table(
    "intents",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("deployment", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("key", String),
    Column("digest", String),
    Column("created_at", Int, nullable=False),
    UniqueConstraint("tenant", "key"),
    Index(None, "deployment"),
)

# A run of a batch's input lines: the unit of work, of leases and of sealed results.
chunks = Table(
    "chunks",
    metadata,
    Column("batch_seq", Int, primary_key=True, autoincrement=False),
    Column("n", Int, primary_key=True, autoincrement=False),
    Column("first_line", Int, nullable=False),
    Column("start", Int, nullable=False),
    Column("end", Int, nullable=False),
    Column("sealed", Int, nullable=False, server_default="0"),
    _count("completed"),
    _count("failed"),
    *(_count(name) for name in TOKENS),
    Column("output_key", String),
    _count("output_size"),
    Column("error_key", String),
    _count("error_size"),
    *_lease(),
    Column("output_sums", LargeBinary),
    Column("error_sums", LargeBinary),
)

# A shard of a group's batch: the lines of its chunk `n`, at a member of the group. It is open, and counts against the
# member's budget, until the deployment says that it has ended. `file_id` and `shard_id` are rows of INTERNAL.
placements = Table(
    "placements",
    metadata,
    Column("batch_seq", Int, primary_key=True, autoincrement=False),
    Column("n", Int, primary_key=True, autoincrement=False),
    Column("member", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("deployment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("first_line", Int, nullable=False),
    _count("lines"),
    _count("tokens"),
    Column("reason", String, nullable=False),
    Column("status", String, nullable=False),
    Column("open", Int, nullable=False),
    Column("asked", Int, nullable=False, server_default="0"),
    Column("created_at", Int, nullable=False),
    Column("file_id", String),
    Column("shard_id", String),
    Column("native_id", String),
    Index(None, "open", "deployment"),
    Index(None, "file_id"),
    Index(None, "shard_id"),
)

# Keys of callers that were made by the service itself: of their secrets only the digests, the one before a rotation
# for as long as it still works.
keys = Table(
    "keys",
    metadata,
    _sequence(),
    Column("id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("old_digest", String),
    Column("old_until", Int),
    Column("providers", JSON, nullable=False),
    Column("model_groups", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_at", Int, nullable=False),
    Column("rotated_at", Int),
    Column("expires_at", Int),
    Column("revoked_at", Int),
    UniqueConstraint("id"),
    Index(None, "tenant", "seq"),
    sqlite_autoincrement=True,
)
