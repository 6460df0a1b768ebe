"""The triggers announce the right row at the right moment, and never fail the application's statement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from reconciler.domain.object_keys import PROVIDER_HOSTS
from reconciler.postgres.migrations.migrate import migrate
from testkit.tables import older_table, supabase_like
from testkit.waiting import until

CHANNEL = "reconciler_generations"
END = "no more"


class Announcements:
    """A listening session: the payloads that came since the last call of `all`, in order."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard: list[str] = []

    def heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._heard.append(payload)

    async def all(self) -> list[dict[str, Any]]:
        """Return every payload until now; a notification of our own marks the end."""
        await self._connection.execute(f"NOTIFY {CHANNEL}, '{END}'")
        await until(lambda: END in self._heard, what="our own notification")
        payloads, self._heard = self._heard[: self._heard.index(END)], []
        return [json.loads(payload) for payload in payloads]


@pytest.fixture
async def application(lasting_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(lasting_dsn)
    await connection.execute("TRUNCATE public.generations")
    yield connection
    await connection.close()


@pytest.fixture
async def announcements(lasting_dsn: str) -> AsyncIterator[Announcements]:
    connection = await asyncpg.connect(lasting_dsn)
    announcements = Announcements(connection)
    await connection.add_listener(CHANNEL, announcements.heard)
    yield announcements
    await connection.close()


async def insert(application: Any, task: str | None = "task", status: str = "queued") -> str:
    made: str = await application.fetchval(
        "INSERT INTO public.generations (task_id, status) VALUES ($1, $2) RETURNING id::text",
        task,
        status,
    )
    return made


async def test_a_new_row_is_announced_with_id_task_and_status(application: Any, announcements: Announcements) -> None:
    made = await insert(application)
    assert await announcements.all() == [{"id": made, "task_id": "task", "status": "queued"}]


async def test_a_row_without_a_task_is_announced_too(application: Any, announcements: Announcements) -> None:
    made = await insert(application, task=None)
    assert await announcements.all() == [{"id": made, "task_id": None, "status": "queued"}]


ENDED = ("success", "completed", "failed", "cancelled")


async def insert_ended(application: Any, status: str, asset_url: str | None) -> str:
    made: str = await application.fetchval(
        "INSERT INTO public.generations (task_id, status, asset_url) VALUES ('task', $1, $2) RETURNING id::text",
        status,
        asset_url,
    )
    return made


@pytest.fixture
async def any_status(application: Any) -> None:
    """Let the table take every word that the daemon knows."""
    await application.execute("ALTER TABLE public.generations DROP CONSTRAINT IF EXISTS generations_status_check")


@pytest.mark.usefixtures("any_status")
@pytest.mark.parametrize("status", ENDED)
async def test_a_row_that_is_inserted_ended_with_its_asset_is_not_announced(
    application: Any, announcements: Announcements, status: str
) -> None:
    await insert_ended(application, status, "https://ours/1.png")
    await insert_ended(application, status, "https://kie.ai.example/1.png")
    assert await announcements.all() == []


async def test_n3_thirty_thousand_inserted_rows_of_history_are_announced_by_nothing(
    application: Any, announcements: Announcements
) -> None:
    await application.execute(
        """INSERT INTO public.generations (task_id, status, asset_url)
           SELECT 'task-' || n, CASE WHEN n % 5 = 0 THEN 'failed' ELSE 'success' END, 'https://ours/' || n
             FROM generate_series(1, 30000) n"""
    )
    assert await announcements.all() == []


@pytest.mark.usefixtures("any_status")
@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize("host", [None, *PROVIDER_HOSTS, *(f"tempfile.{host}:443" for host in PROVIDER_HOSTS)])
async def test_a_row_that_is_inserted_ended_without_an_asset_of_ours_is_announced(
    application: Any, announcements: Announcements, status: str, host: str | None
) -> None:
    made = await insert_ended(application, status, host and f"https://{host}/1.png")
    assert await announcements.all() == [{"id": made, "task_id": "task", "status": status}]


@pytest.mark.parametrize("status", ["queued", "generating"])
async def test_a_row_that_is_inserted_in_flight_is_announced_whatever_its_asset(
    application: Any, announcements: Announcements, status: str
) -> None:
    made = await insert_ended(application, status, "https://ours/1.png")
    assert await announcements.all() == [{"id": made, "task_id": "task", "status": status}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("status = 'generating'", {"status": "generating", "task_id": "task"}),
        ("task_id = 'another'", {"status": "queued", "task_id": "another"}),
        ("task_id = NULL", {"status": "queued", "task_id": None}),
        ("status = 'cancelled', prompt = 'a dog'", {"status": "cancelled", "task_id": "task"}),
        ("asset_url = 'https://ours/1.png'", {"status": "queued", "task_id": "task"}),
    ],
)
async def test_a_change_of_status_task_or_asset_is_announced(
    application: Any, announcements: Announcements, change: str, told: dict[str, Any]
) -> None:
    made = await insert(application)
    await announcements.all()
    await application.execute(f"UPDATE public.generations SET {change}")
    assert await announcements.all() == [{"id": made, **told}]


@pytest.mark.parametrize(
    "change",
    [
        "status = status",
        "task_id = 'task', status = 'queued'",
        "asset_url = asset_url",
        "prompt = 'a dog', updated_at = now(), result_urls = '[]'",
    ],
)
async def test_any_other_update_is_not(application: Any, announcements: Announcements, change: str) -> None:
    await insert(application)
    await announcements.all()
    await application.execute(f"UPDATE public.generations SET {change}")
    await application.execute("DELETE FROM public.generations")
    assert await announcements.all() == []


@pytest.mark.parametrize(("column", "value"), [("status", "generating"), ("task_id", "another")])
async def test_what_a_trigger_of_the_application_changes_is_announced(
    application: Any, announcements: Announcements, column: str, value: str
) -> None:
    made = await insert(application)
    await announcements.all()
    await application.execute(
        f"CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.{column} := '{value}'; RETURN NEW; END $$;"
        "CREATE TRIGGER meddle BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.meddle()"
    )
    await application.execute("UPDATE public.generations SET prompt = 'a dog'")
    await application.execute("DROP FUNCTION public.meddle CASCADE")
    (told,) = await announcements.all()
    assert (told["id"], told[column]) == (made, value)


@pytest.mark.parametrize("letter", ["x", "é", "🎨", "\x01", '"'])
async def test_a_task_id_of_9000_characters_is_inserted_and_announced_in_200(
    application: Any, announcements: Announcements, letter: str
) -> None:
    made = await insert(application, task=letter * 9_000)
    assert await announcements.all() == [{"id": made, "task_id": letter * 200, "status": "queued"}]
    assert await application.fetchval("SELECT length(task_id) FROM public.generations") == 9_000


async def test_a_change_that_is_rolled_back_is_not_announced(application: Any, announcements: Announcements) -> None:
    transaction = application.transaction()
    await transaction.start()
    await insert(application)
    await transaction.rollback()
    assert await announcements.all() == []


async def test_announcing_writes_no_row_and_takes_no_lock_of_ours(application: Any) -> None:
    async with application.transaction():
        await insert(application)
        await application.execute("UPDATE public.generations SET status = 'generating'")
        locked = await application.fetch(
            "SELECT c.relname FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
            " WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'reconciler'::regnamespace"
        )
    assert locked == []
    assert await application.fetchval("SELECT count(*) FROM reconciler.work") == 0


async def test_the_application_goes_on_when_announcing_fails(empty_dsn: str) -> None:
    """Here the id alone is too long for a notification."""
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE public.generations (id text PRIMARY KEY, user_id uuid, status text, task_id text, asset_url text,"
        " created_at timestamptz DEFAULT now())"
    )
    await migrate(empty_dsn)
    await connection.execute("INSERT INTO public.generations (id, status) VALUES (repeat('x', 9000), 'queued')")
    assert await connection.fetchval("SELECT count(*) FROM public.generations") == 1
    await connection.close()


async def test_whoever_may_insert_needs_no_right_in_our_schema(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    announcements = Announcements(connection)
    await connection.add_listener(CHANNEL, announcements.heard)
    await supabase_like(connection)
    await older_table(connection)
    await migrate(empty_dsn)
    await announcements.all()
    await connection.execute(
        "SET ROLE service_role;"
        "INSERT INTO public.generations (user_id, type, model_id, model_name, task_id)"
        " VALUES (gen_random_uuid(), 'image', 'm', 'M', 'theirs'); RESET ROLE"
    )
    assert [told["task_id"] for told in await announcements.all()] == ["theirs"]
    await connection.close()


async def test_without_our_schema_the_application_goes_on(undone: Any) -> None:
    """`DROP SCHEMA reconciler CASCADE` takes the triggers with it and nothing else."""
    await insert(undone)
    await undone.execute("DROP SCHEMA reconciler CASCADE")
    await insert(undone)
    assert await undone.fetchval("SELECT count(*) FROM public.generations") == 2
