"""A mistake that only a person can correct ends the daemon at once: exit 2 and one line that says what to do."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from testkit.stage import KEY, Rig
from testkit.standins.storage import Bucket

SECRET = "hunter2-hunter2-hunter2"

Wrong = Callable[[Rig], Awaitable[dict[str, str]]]


async def malformed(rig: Rig) -> dict[str, str]:
    return {"DATABASE_URL": f"postgresql//me:{SECRET}@host/db"}


async def rejected_password(rig: Rig) -> dict[str, str]:
    role = f"kr_{secrets.token_hex(6)}"
    await rig.pool.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'another'")
    assert str(await rig.pool.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)).startswith(
        "SCRAM"
    )
    parts = urlsplit(rig.dsn)
    host = parts.netloc.rpartition("@")[2]
    return {"DATABASE_URL": parts._replace(netloc=f"{role}:{SECRET}@{host}").geturl()}


async def no_such_database(rig: Rig) -> dict[str, str]:
    return {"DATABASE_URL": urlsplit(rig.dsn)._replace(path="/nowhere").geturl()}


def parameter(words: str, *, named: str) -> Wrong:
    """A database address with a parameter that is meant for another program."""

    async def wrong(rig: Rig) -> dict[str, str]:
        return {"DATABASE_URL": f"{rig.dsn}?{words}"}

    wrong.__name__ = named
    return wrong


async def no_right_to_connect(rig: Rig) -> dict[str, str]:
    role = f"kr_{secrets.token_hex(6)}"
    name = urlsplit(rig.dsn).path.removeprefix("/")
    await rig.pool.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
    )
    host = urlsplit(rig.dsn).netloc.rpartition("@")[2]
    return {"DATABASE_URL": urlsplit(rig.dsn)._replace(netloc=f"{role}:{SECRET}@{host}").geturl()}


async def a_pattern_of_python(rig: Rig) -> dict[str, str]:
    return {"RECONCILER_TASK_PATTERN": "(?P<id>[0-9a-f]+)"}


async def no_kie_key(rig: Rig) -> dict[str, str]:
    return {"KIE_API_KEY": ""}


async def no_storage_key(rig: Rig) -> dict[str, str]:
    return {"SUPABASE_SERVICE_ROLE_KEY": ""}


async def rejected_storage_key(rig: Rig) -> dict[str, str]:
    assert rig.storage is not None
    return {"SUPABASE_SERVICE_ROLE_KEY": f"{rig.storage.key[:-5]}aaaaa"}


async def no_bucket(rig: Rig) -> dict[str, str]:
    return {"RECONCILER_STORAGE_BUCKET": "elsewhere"}


async def private_bucket(rig: Rig) -> dict[str, str]:
    assert rig.storage is not None
    rig.storage.buckets["hidden"] = Bucket(public=False)
    return {"RECONCILER_STORAGE_BUCKET": "hidden"}


async def lacking_columns(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("ALTER TABLE public.generations DROP COLUMN asset_url CASCADE, DROP COLUMN task_id CASCADE")
    return {}


async def no_table(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("DROP TABLE public.generations")
    return {}


async def not_migrated(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("DROP SCHEMA reconciler CASCADE")
    return {}


async def migrated_by_an_older_version(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("DROP TABLE reconciler.watching")
    return {}


async def migrated_before_refusals_were_kept(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("ALTER TABLE reconciler.work DROP COLUMN refused")
    return {}


async def migrated_before_levels_were_kept(rig: Rig) -> dict[str, str]:
    await rig.pool.execute("ALTER TABLE reconciler.instances DROP COLUMN level")
    return {}


async def port_taken(rig: Rig) -> dict[str, str]:
    return {"RECONCILER_HTTP_PORT": str(urlsplit(rig.kie.url).port)}


async def nonsense(rig: Rig) -> dict[str, str]:
    return {"RECONCILER_LEASE_SECONDS": "soon", "RECONCILER_API_TOKEN": SECRET}


WRONG: dict[Wrong, tuple[str, ...]] = {
    malformed: ("DATABASE_URL", "postgresql://USER:PASSWORD@HOST"),
    rejected_password: ("password", "DATABASE_URL"),
    no_such_database: ("database name", "DATABASE_URL"),
    parameter("pgbouncer=true&connection_limit=1", named="parameters_of_prisma"): (
        "DATABASE_URL: ",
        '"pgbouncer"',
        "remove that parameter",
    ),
    parameter("schema=public", named="a_schema"): ("DATABASE_URL: ", '"schema"', "remove that parameter"),
    parameter("connect_timeout=10", named="a_parameter_of_libpq"): (
        "DATABASE_URL: ",
        '"connect_timeout"',
        "remove that parameter",
    ),
    parameter("work_mem=soon", named="a_value_that_is_none"): ("DATABASE_URL: ", '"work_mem"', "remove that parameter"),
    parameter("max_connections=5", named="a_parameter_of_the_server"): (
        "DATABASE_URL: ",
        '"max_connections"',
        "remove that parameter",
    ),
    parameter("sslmode=verify-full&sslrootcert=/nowhere", named="a_missing_file"): (
        "DATABASE_URL: sslrootcert",
        "read",
    ),
    parameter("pgbouncer", named="half_a_parameter"): ("DATABASE_URL", "postgresql://USER:PASSWORD@HOST"),
    no_right_to_connect: ("DATABASE_URL: ", "permission denied for database", "grant"),
    a_pattern_of_python: ("RECONCILER_TASK_PATTERN", "PostgreSQL"),
    no_kie_key: ("KIE_API_KEY", "https://kie.ai/api-key"),
    no_storage_key: ("SUPABASE_SERVICE_ROLE_KEY", "dashboard"),
    rejected_storage_key: ("SUPABASE_SERVICE_ROLE_KEY",),
    no_bucket: ("names is missing", "RECONCILER_STORAGE_BUCKET"),
    private_bucket: ("hidden", "public"),
    lacking_columns: ("task_id", "asset_url", "ALTER TABLE public.generations ADD COLUMN"),
    no_table: ("public.generations", "migrate --application"),
    not_migrated: ("reconciler.work", "kie-reconciler migrate"),
    migrated_by_an_older_version: ("reconciler.watching", "kie-reconciler migrate"),
    migrated_before_refusals_were_kept: ("reconciler.work", "refused", "kie-reconciler migrate"),
    migrated_before_levels_were_kept: ("reconciler.instances", "level", "kie-reconciler migrate"),
    port_taken: ("port", "RECONCILER_HTTP_PORT"),
    nonsense: ("RECONCILER_LEASE_SECONDS", "90s"),
}


RARE = (
    "parameters_of_prisma",
    "a_parameter_of_libpq",
    "a_value_that_is_none",
    "a_parameter_of_the_server",
    "half_a_parameter",
    "no_right_to_connect",
    "a_pattern_of_python",
    "rejected_storage_key",
    "private_bucket",
    "migrated_by_an_older_version",
    "migrated_before_refusals_were_kept",
)
"""Soaks: each takes the same way through the daemon as one of the others."""

CASES = [pytest.param(one, marks=[pytest.mark.soak] if one.__name__ in RARE else []) for one in WRONG]


@pytest.mark.sample(3)
@pytest.mark.parametrize("wrong", CASES, ids=lambda wrong: wrong.__name__)
async def test_it_ends_at_once_in_one_line_that_says_what_to_do(rig: Rig, wrong: Wrong) -> None:
    assert rig.storage is not None
    environment = await wrong(rig)
    replica = await rig.begin(**environment)
    ended = await replica.ended(within=90)
    assert ended.code == 2
    (line,) = ended.lines
    for word in WRONG[wrong]:
        assert word in line
    everything = f"{line}{ended.output}{replica.log}"
    dsn = urlsplit(environment.get("DATABASE_URL", rig.dsn))
    for secret in (SECRET, KEY, rig.storage.key, str(dsn.password)):
        assert secret not in everything
    assert "Traceback" not in everything
