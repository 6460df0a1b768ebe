"""N6: every role may create in schema public, and a stranger has planted there."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from reconciler.simulator import Failure
from testkit import commands
from testkit.plants import calls, plant
from testkit.stage import Rig
from testkit.standins.pooler import pooler
from testkit.tables import member
from testkit.waiting import until

# A trigger as applications have it: it names no schema, neither of its table nor of a function.
TRIGGER = """
CREATE TABLE public.history (id text, status text);
GRANT INSERT ON public.history TO PUBLIC;
CREATE FUNCTION public.remember() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO history VALUES (worth(NEW.id::text), NEW.status); RETURN NEW; END $$;
CREATE FUNCTION public.worth(id text) RETURNS text LANGUAGE sql AS 'SELECT id';
CREATE TRIGGER remember BEFORE UPDATE ON public.generations FOR EACH ROW EXECUTE FUNCTION public.remember();
"""


async def history(rig: Rig, generation_id: str) -> list[str]:
    rows = await rig.pool.fetch("SELECT status FROM public.history WHERE id = $1", generation_id)
    return [row["status"] for row in rows]


@pytest.mark.soak
async def test_a_whole_life_calls_nothing_that_a_stranger_made_N6(rig: Rig) -> None:
    name = urlsplit(rig.dsn).path[1:]
    await rig.pool.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET search_path = ''")
    await rig.pool.expire_connections()
    owner = await asyncpg.connect(rig.dsn)
    async with member(rig.dsn) as strangers, member(rig.dsn, "reconciler") as address:
        stranger = await asyncpg.connect(strangers)
        await plant(owner, stranger)
        await stranger.close()
        rig.folder.mkdir(exist_ok=True)
        environment = rig.environment(DATABASE_URL=address)
        replica = await rig.run(DATABASE_URL=address)
        await rig.delivered([await rig.order() for _ in range(3)])
        refused = await rig.order(fate="fail", failure=Failure("422", "The prompt is not allowed"))
        await until(
            lambda: rig.pool.fetchval(f"SELECT status = 'failed' FROM public.generations WHERE id = '{refused}'")
        )
        await replica.kill()
        await owner.execute(
            "UPDATE public.generations SET created_at = now() - interval '40 days' WHERE status = 'failed'"
        )
        for words in (
            ("status",), ("stuck",), ("explain", refused), ("retry", refused), ("backfill",), ("audit",), ("doctor",),
            ("migrate", "--check"),
        ):  # fmt: skip
            ran = await commands.run(*words, folder=rig.folder, environment=environment, within=60)
            assert "planted" not in ran.out + ran.err, words
            assert ran.code in (0, 1), words
        cleaned = await commands.run("cleanup", "--json", folder=rig.folder, environment=environment)
        assert (cleaned.code, cleaned.err) == (0, "")
        migrated = await commands.run("migrate", "--application", folder=rig.folder, environment=rig.environment())
        assert migrated.code == 0
        assert replica.said("error") == []
        assert await calls(owner) == 0
    await owner.close()


async def test_a_trigger_of_the_application_that_names_no_schema_works(rig: Rig) -> None:
    await rig.pool.execute(TRIGGER)
    async with member(rig.dsn, "reconciler") as address:
        replica = await rig.run(DATABASE_URL=address)
        generation_id = await rig.order()
        await rig.delivered([generation_id])
        assert (await history(rig, generation_id))[-1] == "success"
        await replica.kill()


@pytest.mark.soak
async def test_it_works_through_a_pooler_in_both_modes_and_leaves_no_search_path_there(rig: Rig) -> None:
    await rig.pool.execute(TRIGGER)
    for mode in ("transaction", "session"):
        async with pooler(rig.dsn, mode=mode) as address:
            replica = await rig.run(DATABASE_URL=address)
            generation_id = await rig.order()
            await rig.delivered([generation_id])
            assert (await history(rig, generation_id))[-1] == "success"
            await replica.kill()
            other = await asyncpg.connect(address, statement_cache_size=0)
            assert await other.fetchval("SHOW search_path") == '"$user", public'
            await other.close()
