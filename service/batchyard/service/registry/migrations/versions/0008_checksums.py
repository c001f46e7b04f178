"""Checksums of the blocks of stored objects; what is there already has none"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for table, column in (("file_parts", "sums"), ("chunks", "output_sums"), ("chunks", "error_sums")):
        op.add_column(table, sa.Column(column, sa.LargeBinary(), nullable=True))
