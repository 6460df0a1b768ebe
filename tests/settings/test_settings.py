"""Settings: defaults, types, errors that name the variable, and no secret in any output."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from reconciler.domain.object_keys import TYPES, extra_type
from reconciler.errors import Config
from reconciler.settings import KieKey, Settings, load, variable

Given = Callable[..., Settings]

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT.parent / "shared" / "contract.md"

NOT_BUILT = frozenset(
    {
        "RECONCILER_COLUMNS",
        "RECONCILER_CORS_ORIGINS",
        "RECONCILER_FRAME_ANCESTORS",
        "RECONCILER_LOGIN_URL",
        "RECONCILER_SCHEMA",
        "RECONCILER_STATUSES",
        "RECONCILER_TABLE",
    }
)
"""Settings in the contract that no version has yet."""

ADDED = frozenset({"RECONCILER_EXTRA_TYPES", "RECONCILER_MAX_RESULTS"})
"""Settings for bounds of ours that an operator may raise; the contract has no line for each of them."""


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Load the settings from these variables only, in an empty working directory."""

    def loaded(environ: Mapping[str, str] | None = None, **variables: str) -> Settings:
        return load({**(environ or {}), **variables}, tmp_path)

    return loaded


def test_without_variables_every_setting_has_the_default_of_the_contract(given: Given) -> None:
    settings = given()
    assert settings.kie_market_base_url == "https://api.kie.ai"
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 9464)
    assert (settings.storage_backend, settings.storage_bucket) == ("supabase", "generations")
    assert (settings.poll_rate, settings.create_rate, settings.concurrency) == (5, 20, 8)
    assert settings.max_asset_bytes == 5 * 1024**3
    assert settings.spool_max_bytes == 20 * 1024**3
    assert (settings.lease_seconds, settings.sweep_seconds, settings.drain_seconds) == (30, 15, 25)
    assert settings.stuck_after == timedelta(minutes=10)
    assert settings.give_up_after == timedelta(hours=24)
    assert (settings.providers, settings.task_pattern) == (("kie",), ".+")
    assert set(settings.result_hosts) == {
        "aiquickdraw.com", "kie.ai", "redpandaai.co", "suno.ai",
    }  # fmt: skip
    assert (settings.on_fail, settings.allow_private_hosts) == ("write", False)
    assert (settings.orders, settings.user_create_rate) == ("operator", 6)
    assert settings.failed_retention_days == 30
    assert (settings.max_results, settings.extra_types) == (200, ())
    assert (settings.log_level, settings.log_format) == ("info", None)
    assert settings.spool_dir is None
    assert settings.storage_local_dir is None


@pytest.mark.skipif(not CONTRACT.exists(), reason="the contract is not beside this repository")
def test_the_contract_and_the_code_have_the_same_settings() -> None:
    section = CONTRACT.read_text().split("## Settings")[1].split("## HTTP")[0]
    first_cells = [line for line in section.splitlines() if line.startswith("| `")]
    promised = set(re.findall(r"`([A-Z][A-Z_]{5,})`", "\n".join(first_cells)))
    read = {variable(name) for name in Settings.model_fields}
    assert promised - {"RECONCILER_ENV_FILE", "NEXT_PUBLIC_SUPABASE_URL"} - NOT_BUILT == read - ADDED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("24h", 86400), ("30d", 2592000), ("1.5 H", 5400)],
)
def test_durations_are_parsed_with_their_units(given: Given, text: str, seconds: float) -> None:
    settings = given(RECONCILER_GIVE_UP_AFTER=text, RECONCILER_LEASE_SECONDS=text)
    assert settings.give_up_after == timedelta(seconds=seconds)
    assert settings.lease_seconds == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1048576), ("512MiB", 512 << 20), ("5 GiB", 5 << 30), ("1.5 KiB", 1536)],
)
def test_sizes_are_parsed_with_their_units(given: Given, text: str, size: int) -> None:
    assert given(RECONCILER_MAX_ASSET_BYTES=text).max_asset_bytes == size


def test_lists_are_separated_by_commas_or_blanks(given: Given) -> None:
    settings = given(RECONCILER_PROVIDERS="kie, kie-old  kie", RECONCILER_RESULT_HOSTS="*.A.example .b.example")
    assert settings.providers == ("kie", "kie-old")
    assert settings.result_hosts == ("a.example", "b.example")


def test_extra_types_are_stored_beside_the_known_ones(given: Given) -> None:
    settings = given(RECONCILER_EXTRA_TYPES="Video/X-Matroska=MKV, application/x-foo=foo")
    assert settings.extra_types == ("video/x-matroska=mkv", "application/x-foo=foo")
    assert settings.media_types.keys() - TYPES.keys() == {"video/x-matroska", "application/x-foo"}
    assert settings.media_types["video/x-matroska"] == extra_type("mkv")
    assert settings.media_types["image/png"] == TYPES["image/png"]


def test_a_star_alone_lets_results_come_from_any_host(given: Given) -> None:
    assert given(RECONCILER_RESULT_HOSTS="*").result_hosts == ("*",)


def test_choices_are_accepted_in_any_case(given: Given) -> None:
    settings = given(LOG_LEVEL="WARNING", LOG_FORMAT="Console", RECONCILER_ON_FAIL="Handover")
    assert (settings.log_level, settings.log_format) == ("warning", "console")
    assert settings.on_fail == "handover"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:p@db.example:5432/app",
        "postgres://u@[::1]/app?sslmode=require",
        "postgresql://u:p%40%2F@a.example:1,b.example:2/app",
        "postgresql://u@/app?host=/var/run/postgresql",
    ],
)
def test_database_addresses_in_every_usual_form_are_accepted(given: Given, address: str) -> None:
    assert given(DATABASE_URL=address).database_url.get_secret_value() == address


@pytest.mark.parametrize(
    "address",
    [
        "hunter2hunter2",
        "mysql://u:hunter2@h/d",
        "postgresql+asyncpg://u:hunter2@h/d",
        "postgresql://u:hunter2/x@h/d",
        "postgresql://u:hunter2#x@h/d",
        "postgresql://u:hunter2?x@h/d",
        "postgresql://u:[hunter2]@h/d",
        "postgresql://u:hunter2@h:port/d",
        "postgresql://u:hunter2@:5432/d",
        "host=h password=hunter2",
        "postgresql:///hunter2",
        "postgresql://u:p@h/d?hunter2",
        "postgresql://u:p@h/d?port=hunter2",
        "postgresql://u:hunter2@db..example/d",
        f"postgresql://u:hunter2@{'x' * 64}.example/d",
        "postgresql://u:hunter2@/d?host=db..example",
    ],
)
def test_a_malformed_database_address_is_explained_by_an_example_and_not_printed(given: Given, address: str) -> None:
    with pytest.raises(Config, match="DATABASE_URL: this value is not an address such as postgresql://") as caught:
        given(DATABASE_URL=address)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="DATABASE_URL") as direct:
        Settings.model_validate({"DATABASE_URL": address})
    assert "hunter2" not in str(direct.value)


WRONG = [
    ("RECONCILER_HTTP_PORT", "http", "'http' is not a whole number"),
    ("RECONCILER_HTTP_PORT", "70000", "'70000' is too large: the most is 65535"),
    ("RECONCILER_HTTP_PORT", "-1", "'-1' is too small: the least is 0"),
    ("RECONCILER_HTTP_PORT", "9" * 5000, "this value is too large"),
    ("RECONCILER_POLL_RATE", "0", "'0' is too small: it must be above 0"),
    ("RECONCILER_POLL_RATE", "nan", "'nan' is not a finite number"),
    ("RECONCILER_POLL_RATE", "fast", "'fast' is not a number"),
    ("RECONCILER_CREATE_RATE", "twenty", "'twenty' is not a number"),
    ("RECONCILER_USER_CREATE_RATE", "inf", "'inf' is not a finite number"),
    ("RECONCILER_CONCURRENCY", "many", "'many' is not a whole number"),
    ("RECONCILER_CONCURRENCY", "1.5", "'1.5' is not a whole number"),
    ("RECONCILER_CONCURRENCY", "0", "'0' is too small: the least is 1"),
    ("RECONCILER_MAX_RESULTS", "0", "'0' is too small: the least is 1"),
    ("RECONCILER_MAX_RESULTS", "1001", "'1001' is too large: the most is 1000"),
    ("RECONCILER_FAILED_RETENTION_DAYS", "month", "'month' is not a whole number"),
    ("RECONCILER_FAILED_RETENTION_DAYS", "36501", "'36501' is too large: the most is 36500"),
    ("RECONCILER_STUCK_AFTER", "soon", "'soon' is not a duration above 0, such as 90, 90s, 10m, 24h or 30d"),
    ("RECONCILER_STUCK_AFTER", "0s", "'0s' is not a duration above 0, such as 90, 90s, 10m, 24h or 30d"),
    ("RECONCILER_GIVE_UP_AFTER", "9" * 20 + "d", "this value is longer than a hundred years"),
    ("RECONCILER_GIVE_UP_AFTER", "9999999d", "'9999999d' is longer than a hundred years"),
    ("RECONCILER_SWEEP_SECONDS", "9999999d", "'9999999d' is longer than a hundred years"),
    ("RECONCILER_LEASE_SECONDS", "36501d", "'36501d' is longer than a hundred years"),
    ("RECONCILER_LEASE_SECONDS", "-5", "'-5' is not a duration above 0, such as 90, 90s, 10m, 24h or 30d"),
    ("RECONCILER_DRAIN_SECONDS", "1w", "'1w' is not a duration above 0, such as 90, 90s, 10m, 24h or 30d"),
    ("RECONCILER_MAX_ASSET_BYTES", "large", "'large' is not a size such as 1048576, 512MiB or 5 GiB"),
    ("RECONCILER_MAX_ASSET_BYTES", "5 parsecs", "'5 parsecs' is not a size such as 1048576, 512MiB or 5 GiB"),
    ("RECONCILER_SPOOL_MAX_BYTES", "0", "'0' is too small: it must be above 0"),
    ("RECONCILER_STORAGE_BACKEND", "s3", "'s3' is none of these words: supabase, local"),
    ("RECONCILER_ON_FAIL", "shrug", "'shrug' is none of these words: write, handover"),
    ("RECONCILER_ORDERS", "everybody", "'everybody' is none of these words: operator, users"),
    ("LOG_LEVEL", "loud", "'loud' is none of these words: debug, info, warning, error"),
    ("LOG_FORMAT", "xml", "'xml' is none of these words: json, console"),
    ("RECONCILER_ALLOW_PRIVATE_HOSTS", "perhaps", "'perhaps' is neither true nor false"),
    ("RECONCILER_TASK_PATTERN", "(", "'(' is not a regular expression: missing ), unterminated subpattern"),
    ("RECONCILER_PROVIDERS", ",", "',' names nothing: give one at least"),
    ("RECONCILER_RESULT_HOSTS", "a.b/x", "'a.b/x' is not a list of host names: leave out https:// and paths"),
    ("RECONCILER_RESULT_HOSTS", "https://cdn.example", "is not a list of host names: leave out https:// and paths"),
    ("RECONCILER_EXTRA_TYPES", "mkv", "'mkv' is not a list of TYPE=EXTENSION, such as video/x-matroska=mkv"),
    *(
        ("RECONCILER_EXTRA_TYPES", value, "is not a list of TYPE=EXTENSION, such as video/x-matroska=mkv")
        for value in ("video/x-foo", "video/x-foo=.foo", "video/x-foo=../foo", "video/x-foo=foo,video/x-bar=")
    ),
    *(
        ("RECONCILER_EXTRA_TYPES", value, "names a type or an extension twice")
        for value in ("video/x-foo=foo,video/x-foo=bar", "video/x-foo=foo,video/x-bar=foo")
    ),
    *(
        ("RECONCILER_EXTRA_TYPES", value, "names a type or an extension that is stored anyway")
        for value in ("image/png=foo", "video/x-foo=mp4")
    ),
    ("RECONCILER_EXTRA_TYPES", "Text/HTML=foo", "'Text/HTML=foo' names HTML, and a page is never a result"),
    ("KIE_MARKET_BASE_URL", "api.kie.ai", "'api.kie.ai' is not an address such as https://example.com"),
    ("KIE_CALLBACK_URL", "shop.example", "'shop.example' is not an address such as https://example.com"),
    ("RECONCILER_PUBLIC_URL", "/files", "'/files' is not an address such as https://example.com"),
    ("SUPABASE_URL", "https://a b", "this value is not an address such as https://example.com"),
    ("SUPABASE_URL", "https://h:port", "this value is not an address such as https://example.com"),
    ("RECONCILER_NOTIFY_URL", "hook", "this value is not an address such as https://example.com"),
    ("DATABASE_URL", "x", "this value is not an address such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"),
    *(
        (name, "two words", "this value contains a blank or a character that no header can carry")
        for name in (
            "SUPABASE_SERVICE_ROLE_KEY", "RECONCILER_API_TOKEN", "KIE_API_KEY", "KIE_API_KEY_PHOTO",
            "KIE_API_KEY_VIDEO",
        )
    ),
    ("RECONCILER_NOTIFY_SECRET", "short", "this value is not whsec_ and 24 bytes or more as base64"),
]  # fmt: skip
"""A setting, a wrong value, and what follows its name."""

ANY_TEXT = frozenset(
    {
        "KIE_API_KEY_PHOTO_POOL",
        "KIE_API_KEY_VIDEO_POOL",
        "KIE_CALLBACK_SECRET",
        "KIE_WEBHOOK_HMAC_KEY",
        "RECONCILER_HTTP_HOST",
        "RECONCILER_SPOOL_DIR",
        "RECONCILER_STORAGE_BUCKET",
        "RECONCILER_STORAGE_LOCAL_DIR",
        "SUPABASE_JWT_SECRET",
    }
)
"""Settings that take every text: only their use shows whether it fits."""


def test_every_setting_has_a_wrong_value_here_or_takes_every_text() -> None:
    wrong = {name for name, _, _ in WRONG}
    assert wrong | ANY_TEXT == {variable(name) for name in Settings.model_fields}
    assert not wrong & ANY_TEXT


def test_a_secret_in_the_wrong_variable_is_not_shown(given: Given) -> None:
    secrets = {"KIE_API_KEY": "key-of-the-shop", "RECONCILER_NOTIFY_URL": "https://shop:hook-login@hook.example"}
    for wrong in ("key-of-the-shop", "hook-login"):
        with pytest.raises(Config) as raised:
            given(RECONCILER_CONCURRENCY=wrong, LOG_LEVEL=wrong, **secrets)
        assert "RECONCILER_CONCURRENCY: this value is not a whole number" in str(raised.value)
        assert wrong not in str(raised.value)


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_a_wrong_value_is_refused_with_a_sentence_of_ours(given: Given, name: str, value: str, told: str) -> None:
    with pytest.raises(Config) as caught:
        given({name: value})
    (line,) = caught.value.lines
    assert line.startswith(f"{name}: ")
    assert told in line
    assert line == str(caught.value)
    assert "\n" not in line
    assert not re.search("input|Input|valid |pydantic|Value error|unable to parse", line)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "9d1c7a6be02f4c58b3a1e") for name in ("RECONCILER_HTTP_PORT", "LOG_LEVEL", "RECONCILER_STUCK_AFTER")),
        ("KIE_MARKET_BASE_URL", "ftp://me:word@h"),
        ("SUPABASE_URL", "me:word@host"),
        ("RECONCILER_NOTIFY_URL", "hook.example/T0K"),
        ("RECONCILER_NOTIFY_SECRET", "hunter2"),
        ("DATABASE_URL", "hunter2"),
        ("KIE_API_KEY", "hunter 2"),
        ("RECONCILER_HTTP_PORT", "80\x1b[2J"),
    ],
)
def test_no_secret_no_login_and_nothing_as_long_as_a_key_is_shown(given: Given, name: str, value: str) -> None:
    with pytest.raises(Config) as caught:
        given({name: value})
    assert str(caught.value).startswith(f"{name}: this value ")
    assert value not in str(caught.value)


def test_several_wrong_values_are_named_at_once_each_on_its_line(given: Given) -> None:
    with pytest.raises(Config) as caught:
        given(RECONCILER_HTTP_PORT="x", RECONCILER_CONCURRENCY="y", LOG_LEVEL="z")
    assert caught.value.lines == (
        "RECONCILER_HTTP_PORT: 'x' is not a whole number",
        "RECONCILER_CONCURRENCY: 'y' is not a whole number",
        "LOG_LEVEL: 'z' is none of these words: debug, info, warning, error",
    )
    assert str(caught.value) == "; ".join(caught.value.lines)


def test_a_notify_url_needs_the_secret_that_signs(given: Given) -> None:
    with pytest.raises(Config, match=r"^RECONCILER_NOTIFY_URL needs RECONCILER_NOTIFY_SECRET"):
        given(RECONCILER_NOTIFY_URL="https://hook.example/in")


def test_a_missing_required_setting_is_named_with_where_to_find_it(given: Given) -> None:
    settings = given(DATABASE_URL="postgresql://u:p@h/d")
    settings.require("database_url")
    with pytest.raises(Config) as caught:
        settings.require("database_url", "kie_api_key", "storage", "public_url")
    line = str(caught.value)
    assert "DATABASE_URL" not in line
    assert "KIE_API_KEY (https://kie.ai/api-key)" in line
    assert "SUPABASE_URL (" in line
    assert "SUPABASE_SERVICE_ROLE_KEY (" in line
    assert "RECONCILER_PUBLIC_URL" in line


@pytest.mark.parametrize(
    "secret",
    [
        "plain text of the shop, long enough",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_c2lnbmluZy1zZWNyZXQtb2YtMjUt_nl0",
        "A" * 33,
    ],
)
def test_a_signing_secret_that_receivers_libraries_read_differently_is_refused(given: Given, secret: str) -> None:
    with pytest.raises(Config, match=r"^RECONCILER_NOTIFY_SECRET: this value is not whsec_") as caught:
        given(RECONCILER_NOTIFY_URL="https://hook.example/in", RECONCILER_NOTIFY_SECRET=secret)
    assert secret not in str(caught.value) or secret == "whsec_"


@pytest.mark.parametrize("secret", ["whsec_" + "QUJD" * 8, "QUJD" * 8, "whsec_" + "QUJD" * 8 + "QUI", "0f" * 16])
def test_a_signing_secret_is_accepted_in_the_forms_that_receivers_libraries_accept(given: Given, secret: str) -> None:
    address = "https://hook.example/in/"
    settings = given(RECONCILER_NOTIFY_URL=address, RECONCILER_NOTIFY_SECRET=secret)
    assert settings.notify_secret.get_secret_value() == secret
    assert settings.notify_url == address, "a slash at the end may mean something to a receiver"


def test_local_storage_needs_a_folder_and_nothing_of_supabase(given: Given) -> None:
    with pytest.raises(Config, match="RECONCILER_STORAGE_LOCAL_DIR") as caught:
        given(RECONCILER_STORAGE_BACKEND="local").require("storage")
    assert "SUPABASE" not in str(caught.value)
    given(RECONCILER_STORAGE_BACKEND="local", RECONCILER_STORAGE_LOCAL_DIR="/srv/results").require("storage")


def test_any_api_key_for_kie_is_enough(given: Given) -> None:
    given(KIE_API_KEY_VIDEO_POOL="a b").require("kie_api_key")


def test_keys_keep_their_order_their_kind_and_appear_once(given: Given) -> None:
    keys = given(
        KIE_API_KEY_VIDEO_POOL="v1,v2 , v1",
        KIE_API_KEY_PHOTO_POOL="p1\tmain",
        KIE_API_KEY_PHOTO="photo",
        KIE_API_KEY="main",
    ).kie_keys()
    assert keys == (
        KieKey(SecretStr("main")),
        KieKey(SecretStr("photo"), kind="image"),
        KieKey(SecretStr("p1"), kind="image", pool=True),
        KieKey(SecretStr("v1"), kind="video", pool=True),
        KieKey(SecretStr("v2"), kind="video", pool=True),
    )


SECRETS = {
    "DATABASE_URL": "postgresql://someone:pass%40word@h/d",
    "SUPABASE_SERVICE_ROLE_KEY": "service-role-secret",
    "SUPABASE_JWT_SECRET": "jwt-secret",
    "KIE_API_KEY": "kie-secret",
    "KIE_API_KEY_PHOTO": "photo-secret",
    "KIE_API_KEY_VIDEO": "video-secret",
    "KIE_API_KEY_PHOTO_POOL": "pool-secret-1,pool-secret-2",
    "KIE_API_KEY_VIDEO_POOL": "pool-secret-3",
    "KIE_CALLBACK_SECRET": "callback-secret",
    "KIE_WEBHOOK_HMAC_KEY": "hmac-secret",
    "RECONCILER_API_TOKEN": "operator-secret",
    "RECONCILER_NOTIFY_SECRET": "whsec_c2lnbmluZy1zZWNyZXQtb2YtMjUtYnl0",
    "RECONCILER_NOTIFY_URL": "https://hook.example/path-secret",
}


def test_no_secret_is_in_any_text_form_of_the_settings(given: Given) -> None:
    settings = given(SECRETS)
    shown = f"{settings!r} {settings} {settings.kie_keys()!r}"
    assert "secret-" not in shown.replace("pool-secret-", "secret-")
    for secret in (*SECRETS.values(), "pass%40word", "pool-secret-2", "path-secret"):
        assert secret not in shown


def test_every_secret_is_listed_in_each_form_in_which_a_log_may_contain_it(given: Given) -> None:
    listed = given(SECRETS).secrets()
    assert set(listed) >= {*SECRETS.values(), "pass%40word", "pass@word", "pool-secret-2"}
    assert "" not in given().secrets()


def test_settings_do_not_change_after_they_are_read(given: Given) -> None:
    with pytest.raises(ValueError, match="frozen"):
        given().http_port = 1
