"""The settings: their names, types and defaults, and the rules about several of them.

`load` reads them; `values.py` parses one value from text, `wrong_values.py` says what is wrong with one, `sources.py`
finds the texts. The composition root or a
command loads them once, nothing does so at import.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AliasGenerator, ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from reconciler.domain.object_keys import PROVIDER_HOSTS, TYPES, AddressRules, MediaType, extra_type
from reconciler.errors import Config
from reconciler.settings.sources import gather, named
from reconciler.settings.values import (
    Count,
    DatabaseAddress,
    Duration,
    ExactAddress,
    ExtraTypes,
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
from reconciler.settings.wrong_values import sentence

_UNSET = SecretStr("")
_SHARED_PREFIXES = ("DATABASE_", "SUPABASE_", "KIE_", "LOG_")

_READ_ELSEWHERE = ("RECONCILER_ENV_FILE", "RECONCILER_PG_BIN")
"""The variables that other modules read: the file to load, and the programs of the demo's database."""

_WHERE_TO_FIND = {
    "database_url": "Supabase dashboard, Connect: the direct address or the session pooler's",
    "supabase_url": "Supabase dashboard, Project Settings, Data API",
    "supabase_service_role_key": "Supabase dashboard, Project Settings, API Keys",
    "kie_api_key": "https://kie.ai/api-key",
    "storage_local_dir": "the folder for stored results",
}


def variable(attribute: str) -> str:
    """Return the environment variable of a setting."""
    name = attribute.upper()
    return name if name.startswith(_SHARED_PREFIXES) else f"RECONCILER_{name}"


@dataclass(frozen=True, slots=True)
class KieKey:
    """One API key for KIE; `kind` is the media it is used for (None: any), `pool` marks one of a pool."""

    secret: SecretStr
    kind: Literal["image", "video"] | None = None
    pool: bool = False


class Settings(BaseSettings):
    """All settings with their defaults; a secret that is not set is an empty SecretStr, which is false."""

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
    orders: Annotated[Literal["operator", "users"], Lower] = "operator"
    user_create_rate: Rate = 6.0
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
    max_results: int = Field(200, ge=1, le=1000)
    extra_types: ExtraTypes = ()
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
        """Use only the values that `load` passes."""
        # The library would expand ${…} in .env files, and read the environment even if the caller passed another one.
        return (init_settings,)

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        if self.notify_url and not self.notify_secret:
            raise ValueError("RECONCILER_NOTIFY_URL needs RECONCILER_NOTIFY_SECRET too")
        return self

    def require(self, *names: str) -> None:
        """Raise Config that names each of these settings that is not set, and where to find its value.

        `storage` means all that the storage backend needs; any API key for KIE satisfies `kie_api_key`.
        """
        values = (
            (name, self.kie_keys() if name == "kie_api_key" else getattr(self, name)) for name in self._expand(names)
        )
        missing = [name for name, value in values if not value]
        if not missing:
            return
        missing_variables = [
            f"{variable(name)} ({_WHERE_TO_FIND[name]})" if name in _WHERE_TO_FIND else variable(name)
            for name in missing
        ]
        raise Config(f"Not set: {'; '.join(missing_variables)}", code="missing_settings")

    def _expand(self, names: tuple[str, ...]) -> Iterator[str]:
        for name in names:
            if name != "storage":
                yield name
            elif self.storage_backend == "local":
                yield "storage_local_dir"
            else:
                yield from ("supabase_url", "supabase_service_role_key")

    @property
    def provider_hosts(self) -> tuple[str, ...]:
        """The hosts of KIE: `result_hosts`, and the known ones even if `result_hosts` does not name them."""
        return tuple(dict.fromkeys((*self.result_hosts, *PROVIDER_HOSTS)))

    @property
    def address_rules(self) -> AddressRules:
        """Which addresses are the provider's, and which lie in our storage or beside it in the same project."""
        local = self.storage_backend == "local"
        base, path = (self.public_url, "/files/") if local else (self.supabase_url, "/storage/v1/")
        return AddressRules(self.provider_hosts, f"{base.rstrip('/')}{path}" if base else "")

    @property
    def media_types(self) -> Mapping[str, MediaType]:
        """The types that are stored: the known ones, and those of `extra_types`."""
        added = (pair.split("=") for pair in self.extra_types)
        return {**TYPES, **{mime: extra_type(ext) for mime, ext in added}}

    def kie_keys(self) -> tuple[KieKey, ...]:
        """Return the API keys for KIE in order of preference, each secret once."""
        keys = [
            KieKey(self.kie_api_key),
            KieKey(self.kie_api_key_photo, kind="image"),
            KieKey(self.kie_api_key_video, kind="video"),
            *(KieKey(secret, kind="image", pool=True) for secret in _pool(self.kie_api_key_photo_pool)),
            *(KieKey(secret, kind="video", pool=True) for secret in _pool(self.kie_api_key_video_pool)),
        ]
        unique: dict[str, KieKey] = {}
        for key in keys:
            if key.secret:
                unique.setdefault(key.secret.get_secret_value(), key)
        return tuple(unique.values())

    def secrets(self) -> tuple[str, ...]:
        """Return every text that must never appear in a log, also the database's password."""
        secrets = [getattr(self, name).get_secret_value() for name in _secret_attributes()]
        keys = [key.secret.get_secret_value() for key in self.kie_keys()]
        user_info = urlsplit(self.database_url.get_secret_value()).netloc.rpartition("@")[0]
        password = user_info.partition(":")[2]
        return tuple(
            dict.fromkeys(text for text in (*secrets, *keys, password, unquote(password), self.notify_url) if text)
        )


def _pool(keys: SecretStr) -> list[SecretStr]:
    return [SecretStr(secret) for secret in words(keys.get_secret_value())]


def _secret_attributes() -> tuple[str, ...]:
    fields = Settings.model_fields.items()
    return tuple(name for name, field in fields if field.annotation is SecretStr)


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Return the settings from the process environment and the files it names.

    Raises Config with one line for each wrong variable, without any secret.
    """
    values = gather(
        os.environ if environ is None else environ,
        Path.cwd() if cwd is None else cwd,
        names=[variable(name) for name in Settings.model_fields],
        secrets=[variable(name) for name in _secret_attributes()],
    )
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        lines = [_sentence(problem, values) for problem in problems]
        raise Config("; ".join(lines), lines=lines) from None


def strangers(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> tuple[str, ...]:
    """Return the names with prefix RECONCILER_ or KIE_ that are no settings, from the same sources as `load`."""
    set_names = named(os.environ if environ is None else environ, Path.cwd() if cwd is None else cwd)
    known = {*(variable(name) for name in Settings.model_fields), *_READ_ELSEWHERE}
    return tuple(sorted(name for name in set_names - known if name.startswith(("RECONCILER_", "KIE_"))))


def _sentence(problem: Mapping[str, Any], values: Mapping[str, str]) -> str:
    name = next(map(str, problem["loc"]), "")
    secrets = [variable(attribute) for attribute in (*_secret_attributes(), "notify_url")]
    value = values.get(name, "")
    # A secret, or the login of an address, may stand in the wrong variable, too.
    repeated = len(value) > 5 and any(value in values.get(secret, "") for secret in secrets)
    return sentence(problem, value, secret=repeated or name in secrets)
