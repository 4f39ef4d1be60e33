"""The one way to PostgreSQL. `store` functions take an open Connection and never commit: the use case does,
with `with engine.begin() as connection:`."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, text


def open_database(url: str, *, pool_size: int = 10, idle_seconds: int = 15) -> Engine:
    """A pool that notices dead connections before use and waits a bounded time for a free or a new one.

    A statement that waits over 15 s on a lock or runs over 60 s is ended by the server, so that no request hangs; and
    so is a transaction that is idle for `idle_seconds` (0: never), so that a process that was frozen in one holds
    nobody up.
    """
    ends = f"-c lock_timeout=15s -c statement_timeout=60s -c idle_in_transaction_session_timeout={idle_seconds}s"
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            "options": f"{ends} -c timezone=UTC",
        },
    )


def ping(engine: Engine) -> None:
    """Raises SQLAlchemy's OperationalError when the database does not answer."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
