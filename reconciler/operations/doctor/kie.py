"""The checks of KIE: its keys, their credits, the models that they may ask about, and its clock."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import asyncpg

from reconciler.kie.client import KieClient, KieReply, key_hash
from reconciler.kie.dialects import by_name, candidates
from reconciler.kie.dialects.veo_1080p import asked
from reconciler.operations.doctor import Check, NotKnown, attempt, fail, judge_clock, judged, not_looked, ok, warn
from reconciler.postgres.predicates import model_of
from reconciler.postgres.schema import TableShape
from reconciler.settings import KieKey, Settings

LOW_CREDITS: Final = 100.0
"""Below this many credits a check warns; a short video takes dozens."""

MODELS: Final = 5
"""KIE is asked for the newest task of at most so many models: the daemon has to do without each of these requests."""

REJECTED: Final = "key_rejected"
"""The error code of a key that KIE rejects."""

_FORBIDDEN: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class KeyAccount:
    """A key, by the name of its setting, with its credits or why they are not known."""

    setting: str
    credits: float | NotKnown


@dataclass(frozen=True, slots=True)
class NewestTask:
    """The newest task of a model, and how KIE is asked about it."""

    model: str
    task_id: str
    family: str | None
    key_hash: str | None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """KIE's answer about the newest task of a model: its record, that the key may not ask, or neither."""

    model: str
    setting: str
    word: Literal["known", "forbidden", "unknown"]


async def check_kie(
    settings: Settings,
    kie: KieClient,
    newest: Sequence[NewestTask] | NotKnown,
    *,
    within: float,
    now: Callable[[], float] = time.time,
) -> list[Check]:
    """Make the checks of KIE; each answer takes `within` seconds at most."""
    keys = {key_hash(key.secret.get_secret_value()): _setting_of(key) for key in settings.kie_keys()}
    accounts, ahead = await _read_accounts(kie, keys, within, now)
    if all(isinstance(account.credits, NotKnown) for account in accounts):
        models = not_looked("kie_models", "KIE accepts no key")
    elif isinstance(newest, NotKnown):
        models = not_looked("kie_models", newest.reason)
    else:
        models = judge_models([await _read_model(kie, keys, task, within) for task in newest])
    clock = judged("kie_clock", ahead, lambda seconds: judge_clock("kie_clock", "KIE's", seconds))
    return [judge_keys(accounts), judge_credits(accounts), models, clock]


def _setting_of(key: KieKey) -> str:
    """Return the name of the setting that a key came from."""
    suffix = {None: "", "image": "_PHOTO", "video": "_VIDEO"}[key.kind]
    return f"KIE_API_KEY{suffix}{'_POOL' if key.pool else ''}"


async def _read_accounts(
    kie: KieClient, keys: Mapping[str, str], within: float, now: Callable[[], float]
) -> tuple[list[KeyAccount], float | NotKnown]:
    """Return the credits of each key, and the seconds that KIE's clock is before `now`."""
    ahead: float | NotKnown = NotKnown("KIE named no date")
    accounts = []
    for key, setting in keys.items():
        accounts.append(KeyAccount(setting, await attempt(lambda key=key: kie.credit(key_hash=key), within=within)))  # type: ignore[misc]
        if (date := _timestamp(kie.date)) is not None:
            # The date has whole seconds, cut off: half a second is missing on average.
            ahead = date + 0.5 - now()
    return accounts, ahead


def _timestamp(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def judge_keys(accounts: Sequence[KeyAccount]) -> Check:
    """Judge whether KIE accepts every key."""
    unknown = {account.setting: account.credits for account in accounts if isinstance(account.credits, NotKnown)}
    rejected = [name for name, error in unknown.items() if error.code == REJECTED]
    if rejected:
        do = "Make or check the key at https://kie.ai/api-key, and its list of allowed addresses."
        return fail("kie_keys", f"KIE rejects {', '.join(rejected)}", do)
    if unknown:
        reasons = "; ".join(dict.fromkeys(error.reason for error in unknown.values()))
        do = "Check KIE_MARKET_BASE_URL, this machine's network, and KIE's status."
        return fail("kie_keys", f"not known: {reasons}", do)
    return ok("kie_keys", f"KIE accepts {', '.join(account.setting for account in accounts)}")


def judge_credits(accounts: Sequence[KeyAccount]) -> Check:
    """Judge the credits that are left; keys of one account share them."""
    remaining = {account.setting: account.credits for account in accounts if not isinstance(account.credits, NotKnown)}
    if not remaining:
        return not_looked("kie_credits", "KIE named the credits of no key")
    listed = ", ".join(f"{amount:g} with {name}" for name, amount in remaining.items())
    least = min(remaining.values())
    if least <= 0:
        do = "Top up at https://kie.ai; everything then goes on by itself."
        return fail("kie_credits", f"no credits are left: {listed}", do)
    if least < LOW_CREDITS:
        return warn("kie_credits", f"credits are low: {listed}", "Top up at https://kie.ai before they run out.")
    return ok("kie_credits", listed)


async def read_newest_tasks(connection: asyncpg.Connection, columns: Mapping[str, str]) -> tuple[NewestTask, ...]:
    """Return the newest task of each model among the last thousand rows, in flight or delivered."""
    table = TableShape(columns)
    model = model_of(table)
    rows = await connection.fetch(f"""
        WITH latest AS (
            (SELECT generation_id, family, key_hash FROM reconciler.work WHERE due_at IS NOT NULL
              ORDER BY due_at DESC LIMIT 500)
            UNION
            (SELECT generation_id, family, key_hash FROM reconciler.work WHERE delivered_at IS NOT NULL
              ORDER BY delivered_at DESC LIMIT 500))
        SELECT DISTINCT ON (model) {model} AS model, g.task_id, w.family, w.key_hash
          FROM latest AS w JOIN public.generations AS g ON g.id = w.generation_id::{table.id_type}
         WHERE g.task_id <> '' AND {model} IS NOT NULL
         ORDER BY model, g.created_at DESC LIMIT {MODELS}""")
    return tuple(NewestTask(row["model"], row["task_id"], row["family"], row["key_hash"]) for row in rows)


async def _read_model(kie: KieClient, keys: Mapping[str, str], task: NewestTask, within: float) -> ModelAnswer:
    """Ask KIE about a task with the key that it was created with, else with the first one."""
    key = task.key_hash if task.key_hash in keys else next(iter(keys))
    assert key is not None
    family = (by_name(task.family) if task.family else None) or candidates(task.model, task.task_id)[0]
    path, task_id = asked(family, task.task_id)
    reply = await attempt(lambda: kie.record(task_id, path=path, key_hash=key), within=within)
    return ModelAnswer(task.model, keys[key], _word(reply))


def _word(reply: KieReply | NotKnown) -> Literal["known", "forbidden", "unknown"]:
    if isinstance(reply, NotKnown):
        return "unknown"
    body = reply.body if isinstance(reply.body, dict) else {}
    if reply.status in _FORBIDDEN or body.get("code") in _FORBIDDEN:
        return "forbidden"
    return "known" if body.get("data") else "unknown"


def judge_models(answers: Sequence[ModelAnswer]) -> Check:
    """Judge what the keys may ask about by KIE's answers: KIE publishes no list of permissions."""
    forbidden = [f"{answer.model} with {answer.setting}" for answer in answers if answer.word == "forbidden"]
    if forbidden:
        do = "Give the key that model at https://kie.ai/api-key, or set the key that its tasks were created with."
        return fail("kie_models", f"KIE refuses to answer about {', '.join(forbidden)}", do)
    known = [answer.model for answer in answers if answer.word == "known"]
    if not known:
        says = "no row has a task that KIE still knows" if answers else "no row has a task yet"
        return ok("kie_models", f"{says}, so permissions are not known")
    return ok("kie_models", f"KIE answers about the newest tasks of {', '.join(known)}")
