"""Sources of settings: the environment, two files and a folder of secrets; the first one wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import Config
from reconciler.settings import load


def test_the_environment_wins_over_dotenv_and_dotenv_over_the_named_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECONCILER_HTTP_PORT=2\nRECONCILER_STORAGE_BUCKET=dotenv\n")
    (tmp_path / "app.env").write_text(
        "RECONCILER_HTTP_PORT=3\nRECONCILER_STORAGE_BUCKET=named\nRECONCILER_CONCURRENCY=4\n"
    )
    environ = {"RECONCILER_ENV_FILE": "app.env", "RECONCILER_HTTP_PORT": "1"}
    settings = load(environ, tmp_path)
    assert settings.http_port == 1
    assert settings.storage_bucket == "dotenv"
    assert settings.concurrency == 4


def test_dotenv_may_name_the_second_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECONCILER_ENV_FILE=.env.local\n")
    (tmp_path / ".env.local").write_text("export KIE_API_KEY='from-the-application'  # theirs\n")
    settings = load({}, tmp_path)
    assert settings.kie_api_key.get_secret_value() == "from-the-application"


def test_files_are_parsed_and_nothing_in_them_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    (tmp_path / ".env").write_text("RECONCILER_API_TOKEN=a${HOME}b$(id)\n")
    assert load({}, tmp_path).api_token.get_secret_value() == "a${HOME}b$(id)"


def test_a_given_environment_replaces_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_HTTP_PORT", "1234")
    assert load({}, tmp_path).http_port == 9464
    assert load(cwd=tmp_path).http_port == 1234


def test_a_named_file_that_is_missing_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(Config, match=r"RECONCILER_ENV_FILE names .*nowhere\.env"):
        load({"RECONCILER_ENV_FILE": "nowhere.env"}, tmp_path)


def test_the_error_for_a_file_that_is_no_text_does_not_show_its_bytes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"KIE_API_KEY=se\xffcret\n")
    with pytest.raises(Config, match="cannot be read: it is not UTF-8 text") as caught:
        load({}, tmp_path)
    assert "se" + "\\xff" not in repr(caught.value)


def test_secrets_are_read_from_the_folder_of_credentials(tmp_path: Path) -> None:
    (tmp_path / "KIE_API_KEY").write_text("from-a-credential\n")
    (tmp_path / "DATABASE_URL").write_text("postgresql://u:p@h/d\n")
    (tmp_path / "RECONCILER_HTTP_PORT").write_text("77\n")
    settings = load({"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    assert settings.kie_api_key.get_secret_value() == "from-a-credential"
    assert settings.database_url.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.http_port == 9464, "only secrets lie there"


def test_the_environment_wins_over_a_credential(tmp_path: Path) -> None:
    (tmp_path / "KIE_API_KEY").write_text("from-a-credential")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "KIE_API_KEY": "from-the-environment"}
    assert load(environ, tmp_path).kie_api_key.get_secret_value() == "from-the-environment"


def test_the_error_for_an_unreadable_credential_names_it(tmp_path: Path) -> None:
    (tmp_path / "KIE_API_KEY").mkdir()
    with pytest.raises(Config, match="KIE_API_KEY cannot be read"):
        load({"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_value_counts_as_not_set_and_hides_nothing(tmp_path: Path, blank: str) -> None:
    (tmp_path / ".env").write_text("RECONCILER_HTTP_PORT=2\n")
    settings = load({"RECONCILER_HTTP_PORT": blank, "RECONCILER_POLL_RATE": blank}, tmp_path)
    assert (settings.http_port, settings.poll_rate) == (2, 5)


def test_the_applications_public_name_of_supabase_url_is_accepted(tmp_path: Path) -> None:
    settings = load({"NEXT_PUBLIC_SUPABASE_URL": "https://a.example/"}, tmp_path)
    assert settings.supabase_url == "https://a.example"


def test_supabase_url_wins_over_the_public_name_within_one_source(tmp_path: Path) -> None:
    both = {"NEXT_PUBLIC_SUPABASE_URL": "https://a.example", "SUPABASE_URL": "https://b.example"}
    assert load(both, tmp_path).supabase_url == "https://b.example"


def test_the_public_name_in_the_environment_wins_over_the_plain_one_in_a_file(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text("SUPABASE_URL=https://file.example\n")
    settings = load({"NEXT_PUBLIC_SUPABASE_URL": "https://environment.example"}, tmp_path)
    assert settings.supabase_url == "https://environment.example"


def test_the_error_for_a_value_that_is_no_text_names_it(tmp_path: Path) -> None:
    with pytest.raises(Config, match="KIE_CALLBACK_SECRET is not UTF-8 text"):
        load({"KIE_CALLBACK_SECRET": os.fsdecode(b"hunter\xff2")}, tmp_path)
