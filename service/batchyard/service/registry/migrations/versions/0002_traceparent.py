"""The trace that a batch belongs to"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("batches", sa.Column("traceparent", sa.String(), nullable=True))
