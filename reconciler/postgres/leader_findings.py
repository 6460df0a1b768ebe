"""The findings that the leader published last: commands and other replicas show what only it knows."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

from reconciler.domain.findings import Finding
from reconciler.postgres.pool import Database
from reconciler.postgres.statement import Statement

# Writes the findings of :instance, if it still leads.
_PUBLISH = Statement("UPDATE reconciler.leader SET findings = :findings::jsonb WHERE instance = :instance")

# Reads what the present leader published; null where nobody leads.
_PUBLISHED = Statement("SELECT findings FROM reconciler.leader WHERE until > now()")


async def publish_findings(database: Database, instance: UUID, found: Sequence[Finding]) -> None:
    """Write the open findings of this instance, if it leads."""
    findings = json.dumps([asdict(finding) for finding in found])
    await database.execute(*_PUBLISH(instance=instance, findings=findings))


async def published_findings(database: Database) -> tuple[Finding, ...]:
    """Return what the present leader published last; empty where nobody leads."""
    published = await database.value(*_PUBLISHED())
    return tuple(Finding(**finding) for finding in json.loads(published or "[]"))
