"""The hub's tables. Whoever changes them adds a step to `migrations`.

Times everywhere are seconds since 1970.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

__all__ = [
    "answers",
    "attempts",
    "checkpoints",
    "keys",
    "marks",
    "metadata",
    "notices",
    "problems",
    "rows",
    "said",
    "sessions",
    "steps",
    "usage",
]

metadata = MetaData()

#: Keys to the hub. Only the SHA-256 of a key is kept.
keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    sqlite_autoincrement=True,
)

#: Sessions ("models" in HUB v1). `own`: opened by hubstate, which announces its state. `body`: the HUB v1 body.
#: `client`: `platform` for Ultralytics' Platform callback (new in 0003); NULL for one that speaks HUB v1, hubstate's included.
#: `epoch_at`: when the hub first heard of `epoch`, or of the attempt while that has none (new in version 2).
sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("name", String, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("body", JSON, nullable=False),
    Column("project", String),
    Column("group", String),
    Column("tags", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("epochs", Integer),
    Column("attempt", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("epoch", Integer),
    Column("epoch_at", Float),
    Column("waiting", Integer),
    Column("rows_told", Integer),
    Column("agent", String),
    Column("stop", String),
    Column("created_at", Float, nullable=False),
    Column("last_contact", Float, nullable=False),
    Column("ended_at", Float),
    Column("deleted_at", Float),
    Column("client", String),
)
Index("sessions_by_age", sessions.c.owner, sessions.c.created_at, sessions.c.id)

attempts = Table(
    "attempts",
    metadata,
    Column("session", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("first_epoch", Integer, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("ended_at", Float),
)

#: Rows as they came; what is in force is found when they are read. `digest` tells a repeat from a new row.
rows = Table(
    "rows",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("session", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("step", Integer),
    Column("final", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("nonfinite", JSON, nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("session", "attempt", "epoch", "digest"),
)

#: The one file of each kind. `file` is its name in the session's folder; two kinds may share a file.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("session", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("file", String, nullable=False),
    Column("fitness", Float),
    Column("at", Float, nullable=False),
)

#: The first answer to each idempotency key of an owner. `digest`: the SHA-256 (hex) of the body that it answered, of an
#: upload that of its file (new in version 2; NULL before, when nobody looked).
answers = Table(
    "answers",
    metadata,
    Column("owner", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("session", String, nullable=False, index=True),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("digest", String),
)

steps = Table(
    "steps",
    metadata,
    Column("session", String, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("step", JSON, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", String, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("what", String, nullable=False),
    Column("at", Float, nullable=False),
)

#: What could not be taken as it was sent, in words for the page.
problems = Table(
    "problems",
    metadata,
    Column("session", String, primary_key=True),
    Column("what", String, primary_key=True),
    Column("at", Float, nullable=False),
)

#: What the Platform callback said that is neither a row nor a file: each event once, told from others by `digest`
#: (new in 0003).
said = Table(
    "said",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("event", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("data", JSON, nullable=False),
    UniqueConstraint("session", "attempt", "event", "digest"),
)

#: What a webhook is told (`notify`). `next_at`: when it is tried next, NULL once it was told or given up.
notices = Table(
    "notices",
    metadata,
    Column("session", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("what", String, primary_key=True),
    Column("noted_at", Float, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Float),
    Column("told_at", Float),
)

#: Moments to remember, by a name.
marks = Table(
    "marks",
    metadata,
    Column("name", String, primary_key=True),
    Column("at", Float, nullable=False),
)
