"""Shards of the batches of model groups, and why a batch waits for a place"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("batches", sa.Column("waiting", sa.String(), nullable=True))
    op.create_table(
        "placements",
        sa.Column("batch_seq", INT, nullable=False, autoincrement=False),
        sa.Column("n", INT, nullable=False, autoincrement=False),
        sa.Column("member", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("first_line", INT, nullable=False),
        sa.Column("lines", INT, nullable=False, server_default="0"),
        sa.Column("tokens", INT, nullable=False, server_default="0"),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("open", INT, nullable=False),
        sa.Column("asked", INT, nullable=False, server_default="0"),
        sa.Column("created_at", INT, nullable=False),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.Column("shard_id", sa.String(), nullable=True),
        sa.Column("native_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("batch_seq", "n"),
    )
    op.create_index("ix_placements_open_deployment", "placements", ["open", "deployment"])
    op.create_index("ix_placements_file_id", "placements", ["file_id"])
    op.create_index("ix_placements_shard_id", "placements", ["shard_id"])
