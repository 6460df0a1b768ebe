"""Finds the texts of settings: in the environment, two files, and a folder of secrets.

The files are parsed, never sourced: nothing in them is expanded or run. Only `load` and `strangers` call this.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from reconciler.errors import Config


def gather(environ: Mapping[str, str], cwd: Path, *, names: Iterable[str], secrets: Iterable[str]) -> dict[str, str]:
    """Return the value of each of `names` that is set; the first source that has it wins.

    The sources in order: `environ`, `.env` in `cwd`, the file of RECONCILER_ENV_FILE, and for `secrets` the folder of
    CREDENTIALS_DIRECTORY. A blank value counts as not set. Raises Config if a named file is missing or unreadable, or a
    value is no text.
    """
    layers = [_without_blanks(layer) for layer in _layers(environ, cwd)]
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        layers.append(_without_blanks(_credentials(Path(folder), secrets)))
    merged = {name: value for layer in reversed(layers) for name, value in layer.items()}
    found = {name: merged[name] for name in names if name in merged}
    for name, value in found.items():
        # Python represents bytes of the environment that are not UTF-8 as lone surrogates.
        if value.encode(errors="replace").decode() != value:
            raise Config(f"{name} is not UTF-8 text")
    return found


def named(environ: Mapping[str, str], cwd: Path) -> frozenset[str]:
    """Return every name in the environment and the two files; errors as `gather`."""
    return frozenset(name for layer in _layers(environ, cwd) for name in layer)


def _layers(environ: Mapping[str, str], cwd: Path) -> list[Mapping[str, str | None]]:
    layers: list[Mapping[str, str | None]] = [environ]
    dotenv = cwd / ".env"
    if dotenv.exists():
        layers.append(_file(dotenv))
    path = next((found for layer in layers if (found := (layer.get("RECONCILER_ENV_FILE") or "").strip())), None)
    if path:
        layers.append(_file(cwd / Path(path).expanduser()))
    return layers


def _without_blanks(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return the values that are not blank, stripped of whitespace."""
    stripped = {name: text for name, value in values.items() if (text := (value or "").strip())}
    if public := stripped.get("NEXT_PUBLIC_SUPABASE_URL"):
        stripped.setdefault("SUPABASE_URL", public)
    return stripped


def _file(path: Path) -> dict[str, str | None]:
    try:
        with path.open(encoding="utf-8") as stream:
            return dict(dotenv_values(stream=stream, interpolate=False))
    except FileNotFoundError:
        raise Config(f"RECONCILER_ENV_FILE names {path}, but there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Config(f"The settings file {path} cannot be read: {_reason(error)}") from None


def _credentials(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = (folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise Config(f"The credential {name} cannot be read: {_reason(error)}") from None
    return found


def _reason(error: OSError | UnicodeDecodeError) -> str:
    # The text of a decoding error repeats bytes of the file, which may be secret.
    return error.strerror or "unknown" if isinstance(error, OSError) else "it is not UTF-8 text"
