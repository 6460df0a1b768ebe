"""The checks of storage: the spool directory, the bucket and its rules, and a probe object.

The probe is stored, read as a stranger reads it, and always removed.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg
import httpx

from reconciler.domain.object_keys import MEDIA_KINDS, OCTETS, TYPES, Kind, content_type
from reconciler.errors import Transient
from reconciler.media.spool import SpoolDirectory
from reconciler.operations.doctor import Check, NotKnown, attempt, fail, not_looked, ok, warn
from reconciler.postgres.predicates import kind_of
from reconciler.postgres.schema import TableShape
from reconciler.postgres.statement import Statement
from reconciler.settings import Settings
from reconciler.storage import PutRequest, Store, prove
from reconciler.storage.supabase import BucketRules, SupabaseStore

MIB: Final = 1 << 20

PRIVATE: Final = "bucket_private"
"""The error code of a bucket that strangers cannot read from."""

ORDINARY_SIZE: Final[Mapping[Kind, int]] = MappingProxyType(
    {Kind.IMAGE: 10 * MIB, Kind.AUDIO: 10 * MIB, Kind.VIDEO: 50 * MIB, Kind.TEXT: MIB, Kind.FILE: 10 * MIB}
)
"""The size in bytes that is nothing unusual for a result of each kind."""

LADDER: Final = tuple(mib * MIB for mib in (1024, 500, 200, 100, 50, 20, 10, 5, 1))
"""The sizes that storage is asked about, in bytes, besides those that results have: the largest first."""

PROBE_FOLDER: Final = "_doctor"
"""The user in the probe's path while nothing has been stored."""

_RAISE_PROJECT_LIMIT: Final = (
    "Raise the project's file size limit: at Supabase under Storage, Settings; on a server of your own FILE_SIZE_LIMIT."
)

_REMOVE_TRIES: Final = 3
_REMOVE_PAUSE: Final = 0.2

_STORED: Final = """
SELECT a.mime, max(a.size)::bigint AS largest
  FROM (SELECT generation_id FROM reconciler.work
         WHERE delivered_at > now() - interval '30 days' ORDER BY delivered_at DESC LIMIT 1000) AS w
  JOIN reconciler.assets AS a ON a.generation_id = w.generation_id
 WHERE a.verified_by IS NOT NULL GROUP BY 1
"""


# Reads what was delivered last. Returns the path of an object of it.
_NEWEST: Final = Statement("""
SELECT a.path
  FROM (SELECT generation_id FROM reconciler.work
         WHERE delivered_at IS NOT NULL ORDER BY delivered_at DESC LIMIT 20) AS w
  JOIN reconciler.assets AS a ON a.generation_id = w.generation_id
 WHERE a.verified_by IS NOT NULL ORDER BY a.stored_at DESC LIMIT 1""")


@dataclass(frozen=True, slots=True)
class BucketUse:
    """What the application generates: kinds of rows, and types and largest size in bytes of what was stored lately.

    `folder` is where the newest result lies, empty where there is none.
    """

    kinds: frozenset[Kind] = MEDIA_KINDS
    types: frozenset[str] = frozenset()
    largest: int = 0
    folder: str = ""


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest size in bytes that storage said it takes, and the least that it refused; None where there is none."""

    taken: int | None
    refused: int | None


@dataclass(frozen=True, slots=True)
class StorageProbe:
    """What happened to the probe.

    `not_stored` and `not_removed` are the errors, None where it worked. `unread` says what is wrong with reading it:
    empty where nothing is, None where it was not tried.
    """

    not_stored: NotKnown | None = None
    unread: str | None = None
    not_removed: NotKnown | None = None


_PROBE_CHECKS = ("upload", "public_read", "delete")


async def check_storage(
    settings: Settings,
    store: Store,
    open_spool: Callable[[], SpoolDirectory],
    client: httpx.AsyncClient,
    use: BucketUse | NotKnown,
    *,
    within: float,
) -> list[Check]:
    """Make the checks of storage; each step takes `within` seconds at most."""
    spool_dir = await attempt(lambda: asyncio.to_thread(open_spool), within=within)
    local = settings.storage_backend == "local"
    name = str(settings.storage_local_dir) if local else settings.storage_bucket
    trouble = await attempt(store.check, within=within)
    checks = [_judge_spool(spool_dir), judge_bucket(trouble, name)]
    if trouble is not None and trouble.code != PRIVATE:
        return checks + [not_looked(each, "the bucket cannot be used") for each in ("bucket_rules", *_PROBE_CHECKS)]
    rules = _read_rules(store)
    known = BucketUse() if isinstance(use, NotKnown) else use
    request = _probe_request(probe_type(rules), known.folder)
    sizes = {settings.max_asset_bytes, *LADDER, *ORDINARY_SIZE.values(), known.largest or MIB}
    limit = await attempt(lambda: read_size_limit(store, request, sizes), within=within)
    checks.append(judge_bucket_rules(rules, use, name, limit))
    if isinstance(spool_dir, NotKnown):
        return checks + [not_looked(each, "the probe needs the spool directory") for each in _PROBE_CHECKS]
    probe = await _probe(store, spool_dir, client, request, within=within)
    return [*checks, judge_upload(probe), judge_public_read(probe, local=local), judge_delete(probe, request.path)]


def _judge_spool(spool_dir: SpoolDirectory | NotKnown) -> Check:
    if isinstance(spool_dir, NotKnown):
        return fail("spool", spool_dir.reason, spool_dir.do)
    return ok("spool", f"{spool_dir.folder} can be written")


def judge_bucket(trouble: NotKnown | None, name: str) -> Check:
    """Judge the bucket itself; `trouble` is what is wrong with it, None where nothing is."""
    if trouble is None:
        return ok("bucket", f"{name} is there and can be used")
    if trouble.code == PRIVATE:
        return fail("bucket", trouble.reason, f"UPDATE storage.buckets SET public = true WHERE id = {_quoted(name)};")
    do = trouble.do or "Check SUPABASE_URL, this machine's network, and the project's status."
    return fail("bucket", trouble.reason, do)


def _read_rules(store: Store) -> BucketRules:
    """Return the bucket's rules as the store's last `check` read them."""
    if isinstance(store, SupabaseStore):
        return store.rules or BucketRules()
    return BucketRules()


async def read_size_limit(store: Store, request: PutRequest, sizes: Iterable[int]) -> SizeLimit | None:
    """Ask storage which of these sizes it takes, the largest first; None where it has no limit of its own."""
    if not isinstance(store, SupabaseStore):
        return None
    refused = None
    for size in sorted(sizes, reverse=True):
        if await store.takes(request, size):
            return SizeLimit(size, refused)
        refused = size
    return SizeLimit(None, refused)


async def read_bucket_use(connection: asyncpg.Connection, columns: Mapping[str, str]) -> BucketUse:
    """Return the kinds of ten thousand rows, or all kinds of media where they name none, and what was stored lately."""
    sample = f"(SELECT {kind_of(TableShape(columns))} AS kind FROM public.generations g LIMIT 10000) AS few"
    rows = await connection.fetch(f"SELECT DISTINCT kind FROM {sample}")
    kinds = {kind for kind in Kind if kind.value in {row["kind"] for row in rows}}
    stored = await connection.fetch(_STORED)
    return BucketUse(
        kinds=frozenset(kinds or MEDIA_KINDS),
        types=frozenset(row["mime"] for row in stored),
        largest=max((row["largest"] for row in stored), default=0),
        folder=(await connection.fetchval(*_NEWEST()) or "").rpartition("/")[0],
    )


def judge_bucket_rules(
    rules: BucketRules, use: BucketUse | NotKnown, name: str, limit: SizeLimit | NotKnown | None = None
) -> Check:
    """Judge what bucket and project accept against what the application generates; `limit` is what storage said."""
    if isinstance(use, NotKnown):
        return not_looked("bucket_rules", f"the results of the application are not known ({use.reason})")
    refused = _refused(rules, use.types)
    refused_kinds = sorted(kind.value for kind in use.kinds if not _accepts_some(rules, kind))
    # Words and documents may come beside results of every kind.
    possible = [mime for kind in {*use.kinds, Kind.TEXT, Kind.FILE} for mime in _types(kind)]
    if refused or refused_kinds:
        listed = ", ".join([*map(_as_stored, refused), *(f"every {kind}" for kind in refused_kinds)])
        return fail("bucket_rules", f"bucket {name} refuses {listed}", _allow(name, rules, [*use.types, *possible]))
    if rules.size is not None and rules.size < use.largest:
        says = f"bucket {name} takes at most {_mib(rules.size)}, and results of {_mib(use.largest)} were stored lately"
        return fail("bucket_rules", says, _enlarge(name))
    if refuses(limit, use.largest):
        says = f"the project takes no object of {_mib(use.largest)}, and one was stored lately"
        return fail("bucket_rules", says, _RAISE_PROJECT_LIMIT)
    if partly := _refused(rules, possible):
        says = f"bucket {name} refuses {', '.join(map(_as_stored, partly))}: such a result would wait"
        return warn("bucket_rules", says, _allow(name, rules, possible))
    ordinary = max((ORDINARY_SIZE[kind] for kind in use.kinds), default=0)
    if rules.size is not None and rules.size < ordinary:
        says = f"bucket {name} takes at most {_mib(rules.size)}, and {_mib(ordinary)} are nothing unusual here"
        return warn("bucket_rules", says, _enlarge(name))
    if refuses(limit, ordinary):
        says = f"the project takes no object of {_mib(ordinary)}, which is nothing unusual here"
        return warn("bucket_rules", says, _RAISE_PROJECT_LIMIT)
    return ok("bucket_rules", f"takes {', '.join(sorted(kind.value for kind in use.kinds))}; {_size(rules, limit)}")


def refuses(limit: SizeLimit | NotKnown | None, size: int) -> bool:
    """Return whether storage said that it refuses an object of this size."""
    return isinstance(limit, SizeLimit) and limit.refused is not None and size >= limit.refused


def _size(rules: BucketRules, limit: SizeLimit | NotKnown | None) -> str:
    if rules.size is not None:
        return f"at most {_mib(rules.size)}"
    match limit:
        case SizeLimit(taken=int(taken), refused=int(refused)):
            return f"the project takes {_mib(taken)} and refuses {_mib(refused)}"
        case NotKnown():
            return f"the project's own size limit is not known: {limit.reason}"
        case _:
            return "any size"


def probe_type(rules: BucketRules) -> str:
    """Return the type that the probe is stored as: the first one that the bucket accepts."""
    return next((mime for mime in TYPES if rules.accepts(content_type(mime))), "image/png")


def _probe_request(mime: str, folder: str) -> PutRequest:
    """Return a path that no generation has, in the folder of a result, else in one of the same form.

    A policy or a folder's rights may allow one path and forbid the next. The path has the type's suffix: the daemon's
    own web server does not show a file without one.
    """
    media = TYPES[mime]
    folder = folder or f"{PROBE_FOLDER}/{media.kind}"
    return PutRequest(f"{folder}/probe-{secrets.token_hex(8)}.{media.ext}", mime, lease="doctor")


async def _probe(
    store: Store, spool_dir: SpoolDirectory, client: httpx.AsyncClient, request: PutRequest, *, within: float
) -> StorageProbe:
    """Store a small object, read it as a stranger, remove it.

    It is removed even where storage did not confirm that it was stored.
    """
    content = f"kie-reconciler doctor {request.path}".encode()
    not_stored: NotKnown | None = NotKnown("not tried")
    unread: str | None = None
    try:
        not_stored = await attempt(lambda: _put(store, spool_dir, request, content), within=within)
        if not_stored is None:
            answer = await attempt(lambda: _get(client, store.address(request.path), content), within=within)
            unread = answer.reason if isinstance(answer, NotKnown) else answer
    finally:
        not_removed = await attempt(lambda: _remove(store, request.path), within=within)
    return StorageProbe(not_stored, unread, not_removed)


async def _put(store: Store, spool_dir: SpoolDirectory, request: PutRequest, content: bytes) -> None:
    async def upload_started(_: str) -> None:
        """Do nothing: the probe is too small for a resumable upload."""

    async with spool_dir.spool() as spool:
        await spool.write(content)
        await spool.seal()
        await store.put(request, spool, holds_lease=lambda: True, upload_started=upload_started)
        await prove(store, request.path, size=spool.size, sha256=spool.sha256, md5=spool.md5)


async def _get(client: httpx.AsyncClient, address: str, content: bytes) -> str:
    """Return what is wrong with the answer to a stranger, empty where nothing is."""
    try:
        response = await client.get(address)
    except httpx.HTTPError as error:
        return f"the address cannot be reached ({type(error).__name__})"
    if response.status_code != 200:
        return f"the answer is {response.status_code}"
    return "" if response.content == content else "the bytes differ"


async def _remove(store: Store, path: str) -> None:
    for tries_left in reversed(range(_REMOVE_TRIES)):
        try:
            await store.remove([path])
            if await store.stat(path) is None:
                return
        except Transient:
            if not tries_left:
                raise
        if tries_left:
            await asyncio.sleep(_REMOVE_PAUSE)
    raise Transient("storage says that it is removed, and it is still there", code="still_there")


def judge_upload(probe: StorageProbe) -> Check:
    """Judge whether an object can be stored and is then proven to be there."""
    if probe.not_stored is not None:
        return fail("upload", f"a probe object was not stored: {probe.not_stored.reason}", probe.not_stored.do)
    return ok("upload", "a probe object was stored and proven")


def judge_public_read(probe: StorageProbe, *, local: bool) -> Check:
    """Judge whether strangers can read what is stored; with `local` storage the daemon has to run for that."""
    if probe.not_stored is not None:
        return not_looked("public_read", "nothing could be stored")
    if not probe.unread:
        return ok("public_read", "anybody can read it at its public address")
    if local:
        do = "Start the daemon, which serves these files, and check RECONCILER_PUBLIC_URL."
        return warn("public_read", f"the probe cannot be read at its address: {probe.unread}", do)
    do = "Make the bucket public, and check that SUPABASE_URL is the address that browsers use."
    return fail("public_read", f"the probe cannot be read at its public address: {probe.unread}", do)


def judge_delete(probe: StorageProbe, path: str) -> Check:
    """Judge whether the probe was removed."""
    if probe.not_removed is not None:
        do = " ".join(part for part in (probe.not_removed.do, f"Then remove {path} by hand.") if part)
        return fail("delete", f"the probe object could not be removed: {probe.not_removed.reason}", do)
    if probe.not_stored is not None:
        return ok("delete", "nothing of the probe is left")
    return ok("delete", "the probe object was removed")


def _types(kind: Kind) -> list[str]:
    return [mime for mime, found in TYPES.items() if found.kind is kind]


def _refused(rules: BucketRules, types: Iterable[str]) -> list[str]:
    return sorted(mime for mime in types if not rules.accepts(content_type(mime)))


def _accepts_some(rules: BucketRules, kind: Kind) -> bool:
    # Files without a meaning to browsers are stored as bytes, of whatever kind they are.
    return any(rules.accepts(stored) for stored in map(content_type, _types(kind)) if stored != OCTETS)


def _as_stored(mime: str) -> str:
    stored = content_type(mime)
    return mime if stored == mime else f"{mime} (stored as {stored})"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB // 10 else f"{size} bytes"


def _allow(name: str, rules: BucketRules, types: Iterable[str]) -> str:
    wanted = {*map(content_type, types), *(rules.types or ())}
    listed = ", ".join(_quoted(each) for each in sorted(wanted))
    return f"UPDATE storage.buckets SET allowed_mime_types = ARRAY[{listed}] WHERE id = {_quoted(name)};"


def _enlarge(name: str) -> str:
    return f"UPDATE storage.buckets SET file_size_limit = NULL WHERE id = {_quoted(name)};"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
