"""What tenants and keys use at the moment: live batches and kept files, found by whom"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index(
        "ix_batches_tenant_key_id_estimated_tokens_estimated_lines_status",
        "batches",
        ["tenant", "key_id", "estimated_tokens", "estimated_lines", "status"],
        sqlite_where=sa.text("status NOT IN ('failed', 'completed', 'expired', 'cancelled')"),
    )
    op.create_index(
        "ix_batches_tenant_created_at",
        "batches",
        ["tenant", "created_at"],
        sqlite_where=sa.text("estimated_lines + estimated_tokens + completed + failed > 0"),
    )
    op.create_index("ix_files_tenant_deleted_at_key_id_bytes", "files", ["tenant", "deleted_at", "key_id", "bytes"])
