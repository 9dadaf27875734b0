"""What changed, when, and who did it. Written in the transaction of the change itself."""

from datetime import datetime

from sqlalchemy import Connection, insert

from cargo_registry.db.schema import audit


def record(
    tx: Connection,
    action: str,
    *,
    actor: str,
    now: datetime,
    token_id: int | None = None,
    registry: str | None = None,
    crate: str | None = None,
    vers: str | None = None,
    detail: str = "",
) -> None:
    """Add a line to the audit log. Never a secret in `detail`."""
    tx.execute(
        insert(audit).values(
            at=now,
            actor=actor,
            token_id=token_id,
            action=action,
            registry=registry,
            crate=crate,
            vers=vers,
            detail=detail,
        )
    )
