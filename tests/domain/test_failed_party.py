"""Each failure belongs to the party that failed, and to no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from reconciler.domain.failures.party import Party, failed_party
from reconciler.kie.dialects.envelope import _REASONS

PACKAGE = Path(__file__).resolve().parents[2] / "reconciler"

CASES = {
    Party.DATABASE: {"fetch": ["database_away", "config"], "store": ["database_busy"], "prove": ["database_pooled"]},
    Party.KIE_API: {
        "KIE": ["timeout", "network", "server_error", "not_json", "rate_limited", "path_silent", "blocked"]
    },
    Party.KIE_FILES: {"fetch": ["http_404", "http_410", "empty", "not_media", "redirects", "address_refused"]},
    Party.RESULT_HOST: {"fetch": ["timeout", "network", "tls", "short", "http_5xx", "http_429", "host_silent"]},
    Party.STORAGE: {
        "store": ["timeout", "network", "storage_5xx", "storage_refused", "storage_full", "storage_disk", "not_json"],
        "prove": ["proof_failed", "timeout", "storage_denied"],
    },
    Party.APPLICATION: {"write": ["row_refused", "row_locked", "hook_failed", "no_task"]},
    Party.OURSELVES: {
        "KIE": ["unauthorized", "no_credits", "key_missing", "no_room"],
        "fetch": ["host_unlisted", "too_large", "type_refused", "spool_full"],
        "store": ["bad_path", "spool_error"],
        "another stage": ["anything"],
    },
}


@pytest.mark.parametrize("party", Party)
def test_a_failure_belongs_to_the_party_that_failed(party: Party) -> None:
    found = {(stage, code): failed_party(stage, code) for stage, codes in CASES[party].items() for code in codes}
    assert found == dict.fromkeys(found, party)


def test_no_failed_poll_is_blamed_on_files_or_storage() -> None:
    codes = {*_REASONS.values(), *coded("kie")}
    assert len(codes) > 10
    assert {failed_party("KIE", code) for code in codes} == {Party.KIE_API, Party.OURSELVES}


def test_no_failed_store_is_blamed_on_kie() -> None:
    codes = coded("storage")
    assert len(codes) > 10
    assert {failed_party(stage, code) for code in codes for stage in ("store", "prove")} == {
        Party.STORAGE,
        Party.OURSELVES,
    }


def coded(folder: str) -> set[str]:
    """Every code that an error in this folder of the package has."""
    return {
        node.value.value
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    }
