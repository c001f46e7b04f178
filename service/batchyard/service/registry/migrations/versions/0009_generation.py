"""How often a registry was opened or went on, and the newest time that it knows"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for name in ("generation", "newest_at"):
        kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        op.add_column("identity", sa.Column(name, kind, nullable=False, server_default="0"))
    # What is elsewhere is dated by its provider, and what an earlier clock has dated may be in the future.
    own = "coalesce((SELECT max(created_at) FROM {} WHERE deployment IS NULL), 0)"
    op.execute(
        f"UPDATE identity SET newest_at = min(max({own.format('files')}, {own.format('batches')}), "  # noqa: S608 - our own
        "CAST(strftime('%s', 'now') AS INTEGER))"
    )
