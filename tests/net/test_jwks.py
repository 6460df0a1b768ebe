"""The project's public keys: cached, fetched again, and never fetched as often as a stranger asks."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import Response

from reconciler.errors import Transient
from reconciler.net.jwks import Jwks
from tests.http.tokens import Pair, Project, project

ONE, TWO = Pair.of("ES256", "one"), Pair.of("ES256", "two")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def known(keys: Jwks, *kids: str) -> list[bool]:
    return [await keys.key(kid) is not None for kid in kids]


async def test_known_keys_are_fetched_once_in_ten_minutes() -> None:
    clock = Clock()
    async with project(ONE) as supabase:
        keys = Jwks(supabase.url, clock=clock)
        for seconds, fetches in ((0, 1), (599, 1), (2, 2)):
            clock.now += seconds
            assert await known(keys, "one") == [True]
            assert supabase.fetches == fetches


async def test_unknown_key_ids_cause_at_most_one_fetch_a_minute() -> None:
    clock = Clock()
    async with project(ONE) as supabase:
        keys = Jwks(supabase.url, clock=clock)
        for minute in range(3):
            assert not any(await known(keys, *(f"stranger-{number}" for number in range(50))))
            assert supabase.fetches == minute + 1
            clock.now += 61


async def test_a_new_key_is_found_and_a_removed_one_is_forgotten() -> None:
    clock = Clock()
    async with project(ONE) as supabase:
        keys = Jwks(supabase.url, clock=clock)
        assert await known(keys, "one", "two") == [True, False]
        supabase.keys = [TWO]
        clock.now += 61
        assert await known(keys, "two", "one") == [True, False]


async def test_many_concurrent_requests_cause_one_fetch() -> None:
    async with project(ONE) as supabase:
        keys = Jwks(supabase.url)
        found = await asyncio.gather(*(keys.key("one") for _ in range(40)))
        assert (all(found), supabase.fetches) == (True, 1)


NONSENSE = {
    "an error": Response("{}", 500),
    "nothing there": Response("{}", 404),
    "elsewhere": Response(status_code=302, headers={"Location": "http://127.0.0.1:9/"}),
    "no JSON": Response("<html>"),
    "another shape": Response("[]"),
    "no list": Response('{"keys": 7}'),
    "too deep": Response('{"keys": ' + "[" * 30_000),
    "too long": Response(json.dumps({"keys": [], "more": "x" * 70_000})),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
async def test_an_answer_that_is_no_key_set_counts_as_an_outage(answer: Response) -> None:
    async with project(ONE) as supabase:
        supabase.answer = answer
        with pytest.raises(Transient) as raised:
            await Jwks(supabase.url).key("one")
        assert raised.value.code == "keys_away"


async def test_during_an_outage_the_keys_are_fetched_every_five_seconds_until_they_come() -> None:
    clock = Clock()
    async with project(ONE) as supabase:
        supabase.answer = NONSENSE["an error"]
        keys = Jwks(supabase.url, clock=clock)
        for _ in range(3):
            with pytest.raises(Transient):
                await keys.key("one")
        assert supabase.fetches == 1
        supabase.answer = None
        clock.now += 6
        assert await known(keys, "one") == [True]


async def ask_during_outage(supabase: Project, keys: Jwks, clock: Clock, *, seconds: float) -> None:
    supabase.answer = NONSENSE["an error"]
    clock.now += seconds
    await keys.key("one")


async def test_known_keys_are_used_for_an_hour_of_an_outage() -> None:
    clock = Clock()
    async with project(ONE) as supabase:
        keys = Jwks(supabase.url, clock=clock)
        assert await known(keys, "one") == [True]
        await ask_during_outage(supabase, keys, clock, seconds=3500)
        with pytest.raises(Transient):
            await keys.key("two")
        with pytest.raises(Transient):
            await ask_during_outage(supabase, keys, clock, seconds=200)


async def test_only_public_signing_keys_of_a_supported_kind_are_used() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "oct", "alg": "HS256"}
    odd = [secret, "text", {}, {**ONE.public, "kid": 7}, {**ONE.public, "kid": "enc", "use": "enc"}]
    odd += [{**ONE.public, "kid": "curve", "crv": "P-521"}, {**ONE.public, "kid": "broken", "x": "!"}]
    async with project() as supabase:
        supabase.answer = Response(json.dumps({"keys": [*odd, TWO.public]}))
        keys = Jwks(supabase.url)
        assert await known(keys, "oct", "enc", "curve", "broken", "two") == [False, False, False, False, True]
