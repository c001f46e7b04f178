"""Lists by place, live batches and leases, each found by an index that holds nothing else"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_LIVE = "status NOT IN ('failed', 'completed', 'expired', 'cancelled')"
_ELSEWHERE = "deployment IS NOT NULL"


def upgrade() -> None:
    for table in ("batches", "files"):
        _index(table, "tenant", "provider", "seq")
    _index("files", "tenant", "deployment", "seq", where=_ELSEWHERE)
    _index("batches", "tenant", "deployment", "seq")
    for columns in ("deployment_status", "tenant_input_file_id", "status_seq", "lease_until"):
        op.drop_index(f"ix_batches_{columns}", "batches")
    _index("batches", "deployment", "tenant", "seq", where=f"{_LIVE} AND {_ELSEWHERE}")
    _index("batches", "tenant", "input_file_id", where=_LIVE)
    _index("batches", "status", "tenant")
    _index("batches", "deployment", "seq", where=f"{_LIVE} AND lease_until = 0")
    _index("batches", "deployment", "lease_until", where="lease_until > 0")


def _index(table: str, *columns: str, where: str | None = None) -> None:
    known = None if where is None else sa.text(where)
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), sqlite_where=known)
