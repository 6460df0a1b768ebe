"""The table of what PostgreSQL and the poolers before it say when they do not serve us: what it means, what to do.

Pure. `errors` calls `to_error` for every error that is not about a row. The words of Supavisor, PgBouncer and
PostgreSQL are recognised, by SQLSTATE where it is enough: poolers send XX000 or 08P01 for most of what they refuse.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from reconciler.errors import Config, Transient
from reconciler.logs.redaction import Redaction
from reconciler.net.failures import failure_words

AWAY: Final = "the database is away"

CODE: Final = "database_away"
"""The code of every error that waiting mends."""

_LONGEST = 300
"""Characters of the server's words that are kept."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The server or pooler that an address leads to: `name` is its host and port, `quoted` removes its password."""

    name: str = "it"
    redaction: Redaction = field(default_factory=Redaction, repr=False)

    @classmethod
    def of(cls, dsn: str) -> Self:
        """Return the peer of this address."""
        parts = urlsplit(dsn)
        login, _, hosts = parts.netloc.rpartition("@")
        named = parse_qs(parts.query)
        password = login.partition(":")[2]
        secrets = (password, unquote(password), *named.get("password", ()))
        ports = named.get("port", ["5432"])[0]
        hosts = hosts or named.get("host", ["localhost"])[0]
        return cls(hosts if re.search(r":\d+$", hosts) else f"{hosts}:{ports}", Redaction(secrets))

    def quoted(self, words: str) -> str:
        """Return words of the server on one line, without secrets, cut to 300 characters."""
        line = " ".join(self.redaction.text(words).split())
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRefusal:
    """One way of not serving us, recognised by the class of its SQLSTATE, by words, by the error's type, or by several.

    `says` is the sentence, `do` the advice. One that `stops` ends `run` with exit code 2, the others are waited for.
    """

    says: str
    do: str
    stops: bool = False
    states: tuple[str, ...] = ()
    words: str = ""
    raised: tuple[type[BaseException], ...] = ()

    def fits(self, error: BaseException) -> bool:
        """Whether this error is one of these."""
        state = getattr(error, "sqlstate", None) or ""
        return (
            (not self.states or state.startswith(self.states))
            and (not self.words or re.search(self.words, _text(error), re.IGNORECASE) is not None)
            and (not self.raised or isinstance(error, self.raised))
        )


def _text(error: BaseException) -> str:
    # Only the message: PostgreSQL's details may repeat a row.
    return str(error.args[0]) if error.args else ""


_COPY = "copy the address again from Supabase's dashboard, Connect"
_ROOM = (
    "close other programs' connections, raise the pool size (Supabase: Database, Settings, Connection pooling; "
    "PgBouncer: pool_size, max_client_conn), or use the direct address: a daemon opens up to 15"
)
_LOGIN = "check user and password in DATABASE_URL; characters such as @ : / ? # are written %40 %3A %2F %3F %23"

ENCRYPTION: Final = DatabaseRefusal(
    says="the server takes only encrypted connections",
    do="add ?sslmode=require to DATABASE_URL",
    stops=True,
    words=r"SSL connection is required|ESSLREQUIRED|^SSL required|no pg_hba\.conf entry .*(no encryption|SSL off)",
)

REFUSALS: Final = (
    DatabaseRefusal(
        says="the pooler does not know this project or user",
        do=f"{_COPY}: the user is postgres.PROJECT-REF, the host has the project's region; a paused project is unknown",
        stops=True,
        words=r"tenant or user not found|tenant/user .*not found|ETENANTNOTFOUND",
    ),
    DatabaseRefusal(
        says="the pooler cannot tell which project is meant",
        do=f"{_COPY}: the user of the pooler is postgres.PROJECT-REF",
        stops=True,
        words=r"no tenant identifier|invalid format for user or db_name",
    ),
    DatabaseRefusal(
        says="the pooler rests after too many failures (its circuit breaker is open)",
        do="wait ten minutes; look for a program with an old password, and at the database itself",
        words=r"circuit ?breaker|too many authentication errors|failed to retrieve database credentials"
        r"|unable to establish connection to upstream database",
    ),
    DatabaseRefusal(
        says="the pooler has no free place",
        do=_ROOM,
        words=r"max ?clients|max (client|proxy) connections|no more connections allowed",
    ),
    DatabaseRefusal(
        says="the pooler got no connection to the database in time",
        do=f"look for long statements and whether the database answers; else {_ROOM}",
        words=r"checkout timeout|unable to check ?out|query_wait_timeout",
    ),
    DatabaseRefusal(
        says="the pooler does not let this machine in",
        do="add its address to the network restrictions (Supabase: Database, Settings)",
        stops=True,
        words=r"allow_list",
    ),
    DatabaseRefusal(
        says="the pooler cannot log in to the database",
        do="mend the login in the pooler's own configuration",
        words=r"server login (has )?failed",
    ),
    ENCRYPTION,
    DatabaseRefusal(
        says="the server does not let this machine, user and database in",
        do="add a line for them to pg_hba.conf and reload it; at a hosted database allow this machine's address",
        stops=True,
        words=r"pg_hba\.conf",
    ),
    DatabaseRefusal(
        says="the database rejects user or password",
        do=_LOGIN,
        stops=True,
        words=r"authentication failed",
    ),
    DatabaseRefusal(says="the database rejects user or password", do=_LOGIN, stops=True, states=("28P",)),
    DatabaseRefusal(says="the database does not let this user in", do=_LOGIN, stops=True, states=("28",)),
    DatabaseRefusal(
        says="there is no such database",
        do="correct the database name at the end of DATABASE_URL (at Supabase it is postgres)",
        stops=True,
        words=r"database .*does not exist|no such database",
    ),
    DatabaseRefusal(
        says="there is no such database",
        do="correct the database name at the end of DATABASE_URL (at Supabase it is postgres)",
        stops=True,
        states=("3D",),
    ),
    DatabaseRefusal(
        says="DATABASE_URL cannot be used",
        do="correct DATABASE_URL",
        stops=True,
        raised=(asyncpg.ClientConfigurationError,),
    ),
    DatabaseRefusal(
        says="the database keeps its last connections for superusers",
        do="close other programs' connections, use a pooler in session mode, or raise max_connections",
        states=("53300",),
        words=r"remaining connection slots",
    ),
    DatabaseRefusal(
        says="the connections of this user or database are used up",
        do="raise its CONNECTION LIMIT (ALTER ROLE, ALTER DATABASE): a daemon opens up to 15",
        states=("53300",),
        words=r"for (role|database)",
    ),
    DatabaseRefusal(
        says="the database has too many connections",
        do="close other programs' connections, use a pooler in session mode, or raise max_connections",
        states=("53300",),
    ),
    DatabaseRefusal(
        says="the disk of the database is full",
        do="free space or enlarge the disk of the database",
        states=("53100",),
    ),
    DatabaseRefusal(
        says="the database takes no writes",
        do="use the primary's address in DATABASE_URL; a full disk makes a hosted database read-only, too",
        states=("25006",),
    ),
    DatabaseRefusal(
        says="the database takes no writes",
        do="use the primary's address in DATABASE_URL; a full disk makes a hosted database read-only, too",
        raised=(asyncpg.TargetServerAttributeNotMatched,),
    ),
    DatabaseRefusal(
        says="a statement took too long",
        do="look for locks and load: pg_stat_activity; a full or slow disk",
        states=("57014",),
    ),
    DatabaseRefusal(
        says=f"{AWAY}, it is starting",
        do="wait: it goes on by itself",
        states=("57P03",),
        words=r"starting up|recovery|consistent",
    ),
    DatabaseRefusal(
        says=f"{AWAY}, it is stopping or ended the connection",
        do="wait: it goes on by itself; else start the database",
        states=("57P",),
    ),
    DatabaseRefusal(
        says="the database is closed to connections",
        do="ALTER DATABASE … ALLOW_CONNECTIONS true",
        words="not currently accepting connections",
    ),
    DatabaseRefusal(
        says="the server offers no encryption",
        do="remove sslmode from DATABASE_URL, or switch on ssl at the server",
        words="rejected SSL upgrade",
    ),
    DatabaseRefusal(
        says=AWAY,
        do="check host and port in DATABASE_URL, this machine's network, and whether the server runs",
    ),
)
"""The first that fits counts; the last fits everything."""


def to_error(error: BaseException, peer: Peer) -> Config | Transient:
    """Return our error: its sentence, who said what, and the advice; Config where waiting does not help."""
    error = _telling(error)
    refusal = next(one for one in REFUSALS if one.fits(error))
    message = f"{refusal.says}: {spoken(error, peer)}"
    if refusal.stops:
        return Config(message, hint=refusal.do)
    return Transient(message, code=CODE, hint=refusal.do)


def spoken(error: BaseException, peer: Peer) -> str:
    """Return who said what, with the SQLSTATE; for an error of the connection what happened to it."""
    if isinstance(error, asyncpg.PostgresError) and error.severity:
        severity = error.severity_en or error.severity
        return f"{peer.name} says: {peer.quoted(_text(error))} ({severity} {error.sqlstate})"
    # asyncpg raises plain ConnectionErrors with a sentence of its own.
    if isinstance(error, OSError) and type(error) is not ConnectionError:
        return f"{peer.name} {failure_words(error)}"
    return f"{peer.name}: {peer.quoted(_text(error)) or type(error).__name__}"


def _telling(error: BaseException) -> BaseException:
    """Return the refusal of the encrypted attempt where the plain one after it was refused for being plain.

    With sslmode=prefer asyncpg tries without encryption, too, and raises what the server says last.
    """
    first = error.__cause__
    return first if isinstance(first, asyncpg.PostgresError) and ENCRYPTION.fits(error) else error
