"""Keys of callers, whose a row is, and what a batch was reckoned at when it was created"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table in ("files", "batches"):
        op.add_column(table, sa.Column("key_id", sa.String(), nullable=True))
    for name in ("estimated_tokens", "estimated_lines"):
        op.add_column("batches", sa.Column(name, INT, nullable=False, server_default="0"))
    op.create_table(
        "keys",
        sa.Column("seq", INT, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("old_digest", sa.String(), nullable=True),
        sa.Column("old_until", INT, nullable=True),
        sa.Column("providers", sa.JSON(), nullable=False),
        sa.Column("model_groups", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("created_at", INT, nullable=False),
        sa.Column("rotated_at", INT, nullable=True),
        sa.Column("expires_at", INT, nullable=True),
        sa.Column("revoked_at", INT, nullable=True),
        sa.UniqueConstraint("id", name="uq_keys_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_keys_tenant_seq", "keys", ["tenant", "seq"])
