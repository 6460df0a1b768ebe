"""The findings that the leader published last: commands and other replicas show what only it knows."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

from reconciler.domain.findings.findings import Finding
from reconciler.postgres.pool import Database
from reconciler.postgres.statement import Statement

# Writes the findings of :instance, if it still leads.
_PUBLISH = Statement("""
UPDATE reconciler.leader
   SET findings = jsonb_build_object('by', instance, 'at', extract(epoch FROM now()), 'open', :findings::jsonb)
 WHERE instance = :instance""")

# Reads what the present leader published within the last two minutes. What another leader wrote stays in the row: a
# daemon of a version before writes nothing.
_PUBLISHED = Statement("""
SELECT findings->'open' FROM reconciler.leader
 WHERE until > now() AND findings->>'by' = instance::text
   AND to_timestamp((findings->>'at')::float8) > now() - interval '2 minutes'""")


async def publish_findings(database: Database, instance: UUID, found: Sequence[Finding]) -> None:
    """Write the open findings of this instance, if it leads."""
    findings = json.dumps([asdict(finding) for finding in found])
    await database.execute(*_PUBLISH(instance=instance, findings=findings))


async def published_findings(database: Database) -> tuple[Finding, ...]:
    """Return what the present leader published within the last two minutes; empty where nobody leads."""
    published = await database.value(*_PUBLISHED())
    return tuple(Finding(**finding) for finding in json.loads(published or "[]"))
