"""How often a registry was opened or went on, and the newest time that it knows"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for name in ("generation", "newest_at"):
        kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
        op.add_column("identity", sa.Column(name, kind, nullable=False, server_default="0"))
    op.execute(
        "UPDATE identity SET newest_at = max(coalesce((SELECT max(created_at) FROM files), 0), "
        "coalesce((SELECT max(created_at) FROM batches), 0))"
    )
