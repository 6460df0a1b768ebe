"""The check `storage_policies`: which policies on storage.objects let strangers write or delete in our bucket.

The service role needs no policy, and a public bucket none for reading. Conditions are read in `policy_rules.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg

from reconciler.operations.doctor import Check, ok, warn
from reconciler.operations.doctor.policy_rules import allows, concerns_only
from reconciler.operations.doctor.privileges import reached_by_strangers
from reconciler.postgres.records import build
from reconciler.postgres.statement import Statement

# Reads the catalogue. Returns whether this database holds Supabase's storage, and whether it has a service role.
_PROJECT: Final = Statement("""
SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'storage' AND c.relname = 'objects') AS here,
       EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') AS service_role""")

# Reads the catalogue. Returns, for each command that anon or authenticated may use, the policies that apply: one row
# without a policy where there is none.
_ACCESS: Final = Statement(f"""
WITH {reached_by_strangers("storage", "objects")}
SELECT x.rolname::text AS role, x.command, x.relrowsecurity AS secured, quote_ident(m.polname::text) AS policy,
       m.polpermissive AS permissive, m.rule
  FROM reached AS x LEFT JOIN meant AS m ON (m.rolname, m.command) = (x.rolname, x.command)
 WHERE x.command <> 'SELECT' ORDER BY 1, 2, 4""")

_CLAUSES: Final[Mapping[str, str]] = MappingProxyType({"INSERT": "WITH CHECK", "UPDATE": "USING", "DELETE": "USING"})
"""The clause in which a policy for this command has its condition."""


@dataclass(frozen=True, slots=True)
class ObjectAccess:
    """A command that a role may use on storage.objects, and one policy that applies to it.

    `secured`: row security is on. `policy` is the quoted name, None where there is no policy; `rule` its condition.
    """

    role: str
    command: str
    secured: bool
    policy: str | None
    permissive: bool | None
    rule: str | None


@dataclass(frozen=True, slots=True)
class StoragePolicies:
    """What strangers may do in Supabase's storage; `here`: this database holds it."""

    here: bool
    service_role: bool
    access: Sequence[ObjectAccess]


async def read_storage_policies(connection: asyncpg.Connection) -> StoragePolicies:
    """Return the policies on storage.objects that apply to anon and authenticated."""
    project = await connection.fetchrow(*_PROJECT())
    rows = await connection.fetch(*_ACCESS())
    return StoragePolicies(project["here"], project["service_role"], [build(ObjectAccess, row) for row in rows])


def judge_storage_policies(policies: StoragePolicies, *, bucket: str, local: bool) -> Check:
    """Judge who else can write and delete objects of the bucket; `local`: objects are in a folder of this machine."""
    if local:
        return ok("storage_policies", "not used: objects are in a local folder")
    if not policies.here:
        return ok("storage_policies", "this database holds no storage.objects")
    if unsecured := [access for access in policies.access if not access.secured]:
        says = f"row security of storage.objects is off: {_listed(unsecured)}"
        return warn("storage_policies", says, "ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;")
    if opening := _opening(policies.access, bucket):
        names = ", ".join(dict.fromkeys(access.policy or "" for access in opening))
        says = f"strangers can change what is in bucket {bucket}: {_listed(opening)}, by policy {names}"
        return warn("storage_policies", says, _closing(opening, bucket, service_role=policies.service_role))
    return ok("storage_policies", f"no policy lets anon or authenticated change every object of bucket {bucket}")


def _opening(access: Sequence[ObjectAccess], bucket: str) -> list[ObjectAccess]:
    """Return the policies that open every object of the bucket, unless a restrictive one limits the same command."""
    limited = {
        (each.role, each.command)
        for each in access
        if each.permissive is False and allows(each.rule, bucket=bucket, role=each.role) is not True
    }
    return [
        each
        for each in access
        if each.permissive
        and (each.role, each.command) not in limited
        and allows(each.rule, bucket=bucket, role=each.role)
    ]


def _listed(access: Sequence[ObjectAccess]) -> str:
    roles: dict[str, dict[str, None]] = {}
    for each in access:
        roles.setdefault(each.command, {})[each.role] = None
    return ", ".join(f"{command} by {' and '.join(named)}" for command, named in roles.items())


def _closing(opening: Sequence[ObjectAccess], bucket: str, *, service_role: bool) -> str:
    """Return the SQL that closes the bucket and leaves other buckets as they are."""
    lines = ["-- The service role needs no policy, and reading a public bucket needs none."]
    shared: list[ObjectAccess] = []
    for policy in dict.fromkeys(access.policy for access in opening):
        its = [access for access in opening if access.policy == policy]
        if not all(concerns_only(access.rule, bucket) for access in its):
            shared += its
        elif service_role:
            lines.append(f"ALTER POLICY {policy} ON storage.objects TO service_role;")
        else:
            lines.append(f"DROP POLICY {policy} ON storage.objects;")
    literal, name = bucket.replace("'", "''"), bucket.replace('"', '""')
    for command in dict.fromkeys(access.command for access in shared):
        roles = ", ".join(sorted({access.role for access in shared if access.command == command}))
        lines.append(
            f'CREATE POLICY "no {command} in {name}" ON storage.objects AS RESTRICTIVE FOR {command} TO {roles}'
            f" {_CLAUSES[command]} (bucket_id <> '{literal}');"
        )
    return "\n".join(lines)
