"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("hash", sa.String, nullable=False, unique=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("project", sa.String),
        sa.Column("group", sa.String),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("epochs", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("waiting", sa.Integer),
        sa.Column("rows_told", sa.Integer),
        sa.Column("agent", sa.String),
        sa.Column("stop", sa.String),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("last_contact", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("deleted_at", sa.Float),
    )
    op.create_index("sessions_by_age", "sessions", ["owner", "created_at", "id"])
    op.create_table(
        "attempts",
        sa.Column("session", sa.String, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("first_epoch", sa.Integer, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("ended_at", sa.Float),
    )
    op.create_table(
        "rows",
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("session", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("nonfinite", sa.JSON, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.UniqueConstraint("session", "attempt", "epoch", "digest"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("session", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("file", sa.String, nullable=False),
        sa.Column("fitness", sa.Float),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("session", sa.String, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_answers_session", "answers", ["session"])
    op.create_table(
        "steps",
        sa.Column("session", sa.String, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("step", sa.JSON, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("session", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_usage_session", "usage", ["session"])
    op.create_table(
        "problems",
        sa.Column("session", sa.String, primary_key=True),
        sa.Column("what", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
