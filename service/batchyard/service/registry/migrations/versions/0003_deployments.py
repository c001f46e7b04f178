"""Files and batches that live at a deployment of another provider, and creations whose answer has not come"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table in ("files", "batches"):
        op.add_column(table, sa.Column("deployment", sa.String(), nullable=True))
        op.add_column(table, sa.Column("native_id", sa.String(), nullable=True))
        op.add_column(table, sa.Column("upstream", sa.JSON(none_as_null=True), nullable=True))
        op.add_column(table, sa.Column("observed_at", INT, nullable=True))
        op.create_index(f"ix_{table}_deployment_native_id", table, ["deployment", "native_id"], unique=True)
    op.create_index("ix_batches_deployment_status", "batches", ["deployment", "status"])
    op.create_table(
        "intents",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("created_at", INT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("tenant", "key", name="uq_intents_tenant_key"),
    )
    op.create_index("ix_intents_deployment", "intents", ["deployment"])
