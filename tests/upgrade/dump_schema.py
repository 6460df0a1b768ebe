"""Makes `schema_0_1_0.sql` again: the database as 0.1.0 migrates it, without rows. Not needed for the tests.

    python -m tests.upgrade.dump_schema > tests/upgrade/schema_0_1_0.sql

It needs Debian's PostgreSQL, whose programs include pg_dump. The wheel beside this file was built from the commit that
is 0.1.0.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from reconciler.demo.embedded_postgres import Postgres
from reconciler.demo.postgres_programs import debian_binaries

WHEEL = Path(__file__).with_name("kie_reconciler-0.1.0-py3-none-any.whl")

HEAD = """\
-- A database as kie-reconciler 0.1.0 leaves it after `migrate --application`: from pg_dump, tidied by dump_schema.py.

DO $$
BEGIN
    CREATE ROLE reconciler NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles belong to the whole server
END
$$;
"""

# What the database has already, what only psql reads, and what belongs to one server.
NOISE = re.compile(
    r"^(--.*|\\.*|SET .*;|SELECT pg_catalog\.set_config\(.*|CREATE SCHEMA public;|COMMENT ON SCHEMA public .*)\n",
    re.MULTILINE,
)


def main() -> None:
    """Print the dump."""
    with tempfile.TemporaryDirectory() as folder, Postgres.start(bin_dir=debian_binaries()) as server:
        zipfile.ZipFile(WHEEL).extractall(folder)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": folder, "DATABASE_URL": server.dsn()}
        command = [sys.executable, "-m", "reconciler", "migrate", "--application"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
        dump = [
            "pg_dump", "--no-owner", "--schema=public", "--schema=reconciler", "--column-inserts",
            "--no-toast-compression", server.dsn(),
        ]  # fmt: skip
        text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    sys.stdout.write(HEAD + re.sub(r"\n{3,}", "\n\n", NOISE.sub("", text)).rstrip() + "\n")


if __name__ == "__main__":
    main()
