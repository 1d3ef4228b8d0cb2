"""When the hub first heard of an epoch, and which body an answer answered. Nobody knows either of what came before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("sessions", sa.Column("epoch_at", sa.Float))
    op.add_column("answers", sa.Column("digest", sa.String))
