"""What an operator can set: names, defaults, and what must be set together.

Here is the list and `load`; `values.py` reads one value from text, `sources.py` finds the texts.
Built once by the composition root or a command, never at import.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AliasGenerator, ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from reconciler.domain.object_keys import PROVIDER_HOSTS
from reconciler.errors import Config
from reconciler.settings.sources import gather, named
from reconciler.settings.values import (
    Count,
    DatabaseAddress,
    Duration,
    ExactAddress,
    HeaderSecret,
    Hosts,
    Lower,
    Pattern,
    Rate,
    Seconds,
    SigningSecret,
    Size,
    WebAddress,
    Words,
    words,
)

_UNSET = SecretStr("")
_SHARED_PREFIXES = ("DATABASE_", "SUPABASE_", "KIE_", "LOG_")

_OTHERS = ("RECONCILER_ENV_FILE", "RECONCILER_PG_BIN")
"""What is read elsewhere: the file to load, and the programs of the demo's database."""

_WHERE = {
    "database_url": "Supabase dashboard, Connect: the direct address or the session pooler's",
    "supabase_url": "Supabase dashboard, Project Settings, Data API",
    "supabase_service_role_key": "Supabase dashboard, Project Settings, API Keys",
    "kie_api_key": "https://kie.ai/api-key",
    "storage_local_dir": "the folder for stored results",
}


def variable(attribute: str) -> str:
    """The environment variable of a setting."""
    name = attribute.upper()
    return name if name.startswith(_SHARED_PREFIXES) else f"RECONCILER_{name}"


@dataclass(frozen=True, slots=True)
class KieKey:
    """One key for KIE; `kind` is what it is meant for (None: anything), `pool` a spare of many."""

    secret: SecretStr
    kind: Literal["image", "video"] | None = None
    pool: bool = False


class Settings(BaseSettings):
    """Every setting with its default; a secret that is not set is an empty, false SecretStr."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        validate_default=False,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=variable),
    )

    database_url: DatabaseAddress = _UNSET
    supabase_url: WebAddress = ""
    supabase_service_role_key: HeaderSecret = _UNSET
    supabase_jwt_secret: SecretStr = _UNSET

    kie_market_base_url: WebAddress = "https://api.kie.ai"
    kie_api_key: HeaderSecret = _UNSET
    kie_api_key_photo: HeaderSecret = _UNSET
    kie_api_key_video: HeaderSecret = _UNSET
    kie_api_key_photo_pool: SecretStr = _UNSET
    kie_api_key_video_pool: SecretStr = _UNSET
    kie_callback_secret: SecretStr = _UNSET
    kie_webhook_hmac_key: SecretStr = _UNSET
    kie_callback_url: WebAddress = ""

    http_host: str = "127.0.0.1"
    http_port: int = Field(9464, ge=0, le=65535)
    public_url: WebAddress = ""
    api_token: HeaderSecret = _UNSET

    storage_backend: Annotated[Literal["supabase", "local"], Lower] = "supabase"
    storage_bucket: str = "generations"
    storage_local_dir: Path | None = None
    max_asset_bytes: Size = ByteSize(5 << 30)
    spool_dir: Path | None = None
    spool_max_bytes: Size = ByteSize(20 << 30)

    poll_rate: Rate = 5.0
    create_rate: Rate = 20.0
    concurrency: Count = 8
    lease_seconds: Seconds = 30.0
    sweep_seconds: Seconds = 15.0
    drain_seconds: Seconds = 25.0
    stuck_after: Duration = timedelta(minutes=10)
    give_up_after: Duration = timedelta(hours=24)
    failed_retention_days: int = Field(30, ge=0, le=36500)

    providers: Words = ("kie",)
    task_pattern: Pattern = ".+"
    result_hosts: Hosts = PROVIDER_HOSTS
    allow_private_hosts: bool = False
    on_fail: Annotated[Literal["write", "handover"], Lower] = "write"
    notify_url: ExactAddress = Field("", repr=False)
    notify_secret: SigningSecret = _UNSET

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = "info"
    log_format: Annotated[Literal["json", "console"] | None, Lower] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` gives."""
        # The library's own reading of .env files expands ${…}, and would look at the environment
        # whatever the caller gave.
        return (init_settings,)

    @model_validator(mode="after")
    def _announcements_are_signed(self) -> Self:
        if self.notify_url and not self.notify_secret:
            raise ValueError("RECONCILER_NOTIFY_URL needs RECONCILER_NOTIFY_SECRET beside it")
        return self

    def require(self, *names: str) -> None:
        """Raise Config naming each of these settings that is not set, and where to get it.

        `storage` stands for whatever the storage backend needs; any key of KIE's satisfies
        `kie_api_key`.
        """
        missing = [name for name in self._expand(names) if not self._is_set(name)]
        if not missing:
            return
        told = [f"{variable(name)} ({_WHERE[name]})" if name in _WHERE else variable(name) for name in missing]
        raise Config(f"Not set: {'; '.join(told)}", code="missing_settings")

    def _expand(self, names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            if name != "storage":
                yield name
            elif self.storage_backend == "local":
                yield "storage_local_dir"
            else:
                yield from ("supabase_url", "supabase_service_role_key")

    def _is_set(self, name: str) -> bool:
        return bool(self.kie_keys() if name == "kie_api_key" else getattr(self, name))

    @property
    def provider_hosts(self) -> tuple[str, ...]:
        """Whose addresses are KIE's: where results may come from can be narrowed, its own hosts stay its own."""
        return tuple(dict.fromkeys((*self.result_hosts, *PROVIDER_HOSTS)))

    def kie_keys(self) -> tuple[KieKey, ...]:
        """KIE's keys in order of preference, each secret once."""
        found = [
            KieKey(self.kie_api_key),
            KieKey(self.kie_api_key_photo, kind="image"),
            KieKey(self.kie_api_key_video, kind="video"),
            *(
                KieKey(SecretStr(one), kind="image", pool=True)
                for one in words(self.kie_api_key_photo_pool.get_secret_value())
            ),
            *(
                KieKey(SecretStr(one), kind="video", pool=True)
                for one in words(self.kie_api_key_video_pool.get_secret_value())
            ),
        ]
        kept: dict[str, KieKey] = {}
        for key in found:
            if key.secret:
                kept.setdefault(key.secret.get_secret_value(), key)
        return tuple(kept.values())

    def secrets(self) -> tuple[str, ...]:
        """Every text that must never be seen in a log, the database's password among them."""
        whole = [getattr(self, name).get_secret_value() for name in _secret_attributes()]
        keys = [key.secret.get_secret_value() for key in self.kie_keys()]
        written = urlsplit(self.database_url.get_secret_value()).netloc.rpartition("@")[0]
        password = written.partition(":")[2]
        return tuple(
            dict.fromkeys(text for text in (*whole, *keys, password, unquote(password), self.notify_url) if text)
        )


def _secret_attributes() -> tuple[str, ...]:
    fields = Settings.model_fields.items()
    return tuple(name for name, field in fields if field.annotation is SecretStr)


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read the settings from the process environment and the files it names.

    Raises Config with one line that names each variable that is wrong, and no value.
    """
    found = gather(
        os.environ if environ is None else environ,
        Path.cwd() if cwd is None else cwd,
        names=[variable(name) for name in Settings.model_fields],
        secrets=[variable(name) for name in _secret_attributes()],
    )
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        raise Config("; ".join(_sentence(problem) for problem in problems)) from None


def strangers(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> tuple[str, ...]:
    """Return the names that begin as ours or KIE's settings do and are none; the same sources as `load`."""
    found = named(os.environ if environ is None else environ, Path.cwd() if cwd is None else cwd)
    known = {*(variable(name) for name in Settings.model_fields), *_OTHERS}
    return tuple(sorted(name for name in found - known if name.startswith(("RECONCILER_", "KIE_"))))


def _sentence(problem: Any) -> str:
    text = str(problem["msg"])
    if problem["type"].startswith("byte_size"):
        text = "must be a size such as 1048576, 512MiB or 5 GiB"
    text = text.removeprefix("Value error, ").replace("Input should be", "must be")
    return " ".join((*map(str, problem["loc"][:1]), text))
