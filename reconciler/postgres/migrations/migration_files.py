"""The SQL files: where they are, in which order they apply, and all of them as one text for a person.

Nothing here connects to a database; `migrate` applies the files. A file may begin with marks: `@follows TABLE` (it
depends on that table: it runs in every migration, and is left out while there is no such table), `@builds INDEX` (one
CREATE INDEX CONCURRENTLY, outside any transaction), `@unless-led-by COLUMN` (not needed where an index begins with that
column), `@strict` (only with --strict-statuses), `@optional` (everything runs without it, only slower), `@after LEVEL
VERSION` (phase `after`: it waits until no daemon with a lower schema level is alive, and from then on none may run),
`@fires-triggers` (it changes the application's rows, whose triggers need the search_path of the session: its own names
have their schemas; every other file runs with an empty search_path).
Every other file is of phase `before`: the version before runs on, next to the new one.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, Literal

from reconciler.postgres.migrations.schema_level import ALIVE, Requirement

Phase = Literal["before", "after"]

_MARK = re.compile(r"^-- @([a-z-]+) ?(.*)$", re.MULTILINE)

_TRIGGER = re.compile(r"^ *CREATE TRIGGER (\w+) .* ON public\.generations$", re.MULTILINE)

_PREAMBLE = """\
-- kie-reconciler: everything `migrate` would apply, as plain SQL. Running it twice changes nothing.
-- Each part waits at most 5 seconds for a lock and then fails; run it again at a quieter moment.
"""

_ALONE = """\
-- Where public.generations is larger than 64 MB, its indexes are left out above, because building them would keep the
-- application from writing. These do not, but cannot run inside a transaction: run each alone, without the dashes.
"""

_AFTER = """\
-- ==================== After the new version has started everywhere ====================
-- Each part below fails while a daemon of an older version is alive, and changes nothing then. Stop that daemon and run
-- the part again. From then on no older version runs on this database.
"""

RECORD_AGAIN: Final = """\
    ON CONFLICT (file) DO UPDATE
       SET sha256 = excluded.sha256, applied_at = now(),
           requires_level = excluded.requires_level, requires_version = excluded.requires_version
     WHERE was.sha256 <> excluded.sha256"""
"""The end of an INSERT into reconciler.schema_version AS was: a file that was changed is recorded as it is now."""

BUCKET: Final = "generations"
"""The bucket that the files make unless the parameter reconciler.bucket names another one."""

_SMALL = 64 << 20
"""Bytes of a table whose index is built in about a second."""


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file: its name as recorded in the database, its text and its marks."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The hash recorded beside the name, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def mark(self, word: str) -> str | None:
        """Return the text after this mark, None where the file does not have it."""
        return dict(_MARK.findall(self.text)).get(word)

    @property
    def application(self) -> bool:
        """Whether it touches the application's columns, constraints, policies or bucket."""
        return self.name.startswith("application/")

    @property
    def requires(self) -> Requirement | None:
        """What a daemon needs to run after this file; None for a file of phase `before`."""
        mark = self.mark("after")
        return None if mark is None else Requirement.read(mark)

    @property
    def phase(self) -> Phase:
        """Whether it applies before the new version starts, or after the last older one has ended."""
        return "before" if self.requires is None else "after"

    @property
    def needed(self) -> bool:
        """Whether nothing runs without it."""
        return not (self.repeated or self.phase == "after" or self.mark("optional") is not None)

    @property
    def search_path(self) -> Literal["TO ''", "TO DEFAULT"]:
        """What follows SET LOCAL search_path in its transaction."""
        return "TO ''" if self.mark("fires-triggers") is None else "TO DEFAULT"

    @property
    def triggers(self) -> tuple[str, ...]:
        """The names of the triggers that it creates on the application's table."""
        return tuple(_TRIGGER.findall(self.text))

    @property
    def statement(self) -> str:
        """Its SQL without comments."""
        lines = self.text.splitlines()
        return "\n".join(line for line in lines if line and not line.startswith("--"))

    @property
    def repeated(self) -> bool:
        """Whether it depends on the application's table and so runs in every migration."""
        return self.application or self.mark("follows") is not None


def scripts(*, application: bool, strict_statuses: bool) -> list[MigrationFile]:
    """Return the files that apply, in order.

    First our schema, then the application's side, what follows it, phase `after`, last the indexes.
    """
    found = _read("") + (_read("application/") if application else [])
    chosen = [script for script in found if strict_statuses or script.mark("strict") is None]
    return sorted(chosen, key=_place)


def trigger_names() -> list[str]:
    """Return the names of our triggers on the application's table."""
    return [name for script in scripts(application=False, strict_statuses=False) for name in script.triggers]


def printed(*, application: bool, strict_statuses: bool, bucket: str = BUCKET) -> str:
    """Return all files as one text for the Supabase SQL editor; the indexes of a large table come last, as comments.

    The files for the application make `bucket`, where they make one.
    """
    chosen = scripts(application=application, strict_statuses=strict_statuses)
    phases = ("before", "after")
    before, after = ([_part(script, bucket) for script in chosen if script.phase == phase] for phase in phases)
    parts = [_PREAMBLE, *before, _AFTER, *after]
    alone = [script.statement for script in chosen if script.mark("builds") is not None]
    commented = "\n\n".join("\n".join(f"-- {line}" for line in text.splitlines()) for text in alone)
    return "\n".join([*parts, _ALONE, commented, ""])


def led_by(column: str, index: str) -> str:
    """Return the condition that this index, or one over all rows, begins with this column; both are SQL expressions."""
    return f"""EXISTS (
    SELECT FROM pg_index AS i
      JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = to_regclass('public.generations')::oid AND i.indisvalid AND a.attname = {column}
       AND (i.indpred IS NULL OR i.indexrelid = to_regclass({index})::oid))"""


def _place(script: MigrationFile) -> tuple[int, str]:
    if script.phase == "after":
        return 3, script.name
    if script.mark("builds") is not None:
        return 4, script.name  # last, because they wait for every open transaction
    if script.application:
        return 1, script.name
    return (2 if script.repeated else 0), script.name


def _part(script: MigrationFile, bucket: str) -> str:
    quoted = bucket.replace("'", "''")
    names_bucket = f"SET LOCAL reconciler.bucket = '{quoted}';\n" if script.application and bucket != BUCKET else ""
    return (
        f"-- {'-' * 20} {script.name}\n"
        "BEGIN;\n"
        "SET LOCAL lock_timeout = '5s';\n"
        "SET LOCAL statement_timeout = 0;\n"
        f"SET LOCAL search_path {script.search_path};\n"
        f"{names_bucket}"
        f"{_wait_for_older(script)}"
        f"{script.text if script.mark('builds') is None else _small_build(script)}"
        f"{_record(script)}"
        "COMMIT;\n"
    )


def _wait_for_older(script: MigrationFile) -> str:
    """Return the statement that fails while a daemon is alive that may not run after this file."""
    if script.requires is None:
        return ""
    level, version = script.requires.level, script.requires.version
    return (
        "DO $$\nBEGIN\n"
        "IF EXISTS (SELECT FROM reconciler.instances\n"
        f"            WHERE level < {level} AND seen_at > now() - interval '{ALIVE.total_seconds():g} seconds') THEN\n"
        f"RAISE EXCEPTION '{script.name}: a daemon older than {version} is alive, see reconciler.instances';\n"
        "END IF;\nEND\n$$;\n"
    )


def _small_build(script: MigrationFile) -> str:
    leader, index = script.mark("unless-led-by"), script.mark("builds")
    needed = " AND NOT " + led_by(f"'{leader}'", f"'public.{index}'") if leader else ""
    return (
        "DO $$\nBEGIN\n"
        f"IF pg_relation_size(to_regclass('public.generations')) < {_SMALL}{needed} THEN\n"
        f"{script.statement.replace(' CONCURRENTLY', '')}\n"
        "END IF;\n"
        f"EXCEPTION WHEN undefined_column THEN RAISE WARNING '{script.name} left out: %', SQLERRM;\n"
        "END\n$$;\n"
    )


def _record(script: MigrationFile) -> str:
    table, index = script.mark("follows"), script.mark("builds")
    needed = f"public.{index}" if index else table
    only = f" WHERE to_regclass('{needed}') IS NOT NULL" if needed else ""
    needs = "0, NULL" if script.requires is None else f"{script.requires.level}, '{script.requires.version}'"
    return (
        "INSERT INTO reconciler.schema_version AS was (file, sha256, requires_level, requires_version)\n"
        f"    SELECT '{script.name}', '{script.sha256}', {needs}{only}\n"
        f"{RECORD_AGAIN};\n"
    )


def _read(folder: str) -> list[MigrationFile]:
    root = _root() / folder if folder else _root()
    files = sorted(file.name for file in root.iterdir() if file.name.endswith(".sql"))
    return [MigrationFile(f"{folder}{name}", (root / name).read_text("utf-8")) for name in files]


def _root() -> Traversable:
    """Return the folder `sql`: inside the installed package, or beside it in a checkout."""
    package = resources.files("reconciler")
    packaged = package / "sql"
    return packaged if packaged.is_dir() else Path(str(package)).parent / "sql"
