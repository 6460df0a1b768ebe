"""Which ended rows are ours to heal: those that show an address at the provider, three times a day at most."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.domain.decide import decide
from reconciler.domain.ended_rows import HEALED_WITHIN, HEALS, is_overwritten, may_move, mended_preview, with_heal
from reconciler.domain.model import Done, Finish, Policy, Reschedule, Row
from reconciler.domain.object_keys import PROVIDER_HOSTS, AddressRules
from reconciler.domain.observations import NotPolled
from tests.domain.worlds import NOW, OURS, THEIRS, asset, row_in_flight

RULES = AddressRules(PROVIDER_HOSTS, "https://ours.supabase.co/storage/v1/")
POLICY = Policy(address_rules=RULES)
CDN = "https://cdn.shop.example/lighthouse.png"


def delivered(address: str | None, **facts: object) -> Row:
    """Return a row that we delivered, and that shows this address now."""
    known = {"sources": [THEIRS], "assets": (asset(0),), "shown": 1, "status": "success", "asset_url": address}
    return row_in_flight(**(known | facts))


@pytest.mark.parametrize(
    ("address", "is_result", "hosts", "expected"),
    [
        pytest.param(THEIRS, False, PROVIDER_HOSTS, True, id="KIE's host"),
        pytest.param("https://mirror.example/a.png", True, PROVIDER_HOSTS, True, id="one of the row's result_urls"),
        pytest.param("https://mirror.example/a.png", False, ("mirror.example",), True, id="a host of the setting"),
        pytest.param("https://mirror.example/a.png", False, ("*", *PROVIDER_HOSTS), False, id="a star names no host"),
        pytest.param(CDN, False, PROVIDER_HOSTS, False, id="an address of the shop"),
        pytest.param(f"{RULES.storage}object/public/other/x.png", True, PROVIDER_HOSTS, False, id="our storage"),
        pytest.param(
            "https://cdn.shop.example/u/image/g_0.png", True, PROVIDER_HOSTS, False, id="our object elsewhere"
        ),
        pytest.param("", True, PROVIDER_HOSTS, False, id="an empty address"),
        pytest.param(None, True, PROVIDER_HOSTS, False, id="no address"),
        pytest.param("words", True, PROVIDER_HOSTS, False, id="no address at all"),
    ],
)
def test_an_address_is_at_the_provider_if_it_expires_there(
    address: str | None, is_result: bool, hosts: tuple[str, ...], expected: bool
) -> None:
    rules = AddressRules(hosts, RULES.storage)
    assert rules.at_provider("g", address, is_result=is_result) is expected
    assert is_overwritten(delivered(address, asset_is_result=is_result), rules) is expected


def test_an_address_of_the_shop_is_never_touched() -> None:
    row = delivered(CDN)
    assert not may_move(row, RULES)
    assert isinstance(decide(row, NotPolled(), NOW, POLICY), Done)


def test_an_overwritten_row_is_written_again_without_a_poll() -> None:
    assert decide(delivered(THEIRS), NotPolled(), NOW, POLICY) == Finish()


def test_after_three_heals_in_a_day_the_row_rests_with_a_finding_until_the_first_is_a_day_old() -> None:
    row = delivered(THEIRS)
    for hours in range(HEALS):
        now = NOW + timedelta(hours=hours)
        assert decide(row, NotPolled(), now, POLICY) == Finish()
        row = with_heal(row, now)
    assert HEALS == 3
    for now in (NOW + timedelta(hours=3), NOW + HEALED_WITHIN - timedelta(seconds=1)):
        decision = decide(row, NotPolled(), now, POLICY)
        assert isinstance(decision, Reschedule)
        assert decision.finding == "asset_overwritten"
        assert now < decision.due_at <= NOW + HEALED_WITHIN
    assert decide(row, NotPolled(), NOW + HEALED_WITHIN, POLICY) == Finish()
    assert len(with_heal(row, NOW + HEALED_WITHIN).healed_at) == HEALS


def test_a_success_that_we_never_delivered_is_no_war_of_writes() -> None:
    """The application's webhook wrote success before us: the limit does not count that."""
    healed = tuple(NOW for _ in range(HEALS))
    row = replace(delivered(THEIRS), shown=None, healed_at=healed)
    assert decide(row, NotPolled(), NOW, POLICY) == Finish()


def test_a_row_that_shows_our_object_is_left_alone() -> None:
    row = delivered(OURS)
    assert not is_overwritten(row, RULES)
    assert isinstance(decide(row, NotPolled(), NOW, POLICY), Done)


@pytest.mark.parametrize(
    ("preview", "expires"),
    [
        (THEIRS, True),
        ("https://tempfile.aiquickdraw.com/preview.jpg", True),
        (CDN, False),
        (OURS, False),
        (None, False),
    ],
)
def test_a_preview_at_the_provider_is_replaced_with_the_asset(preview: str | None, expires: bool) -> None:
    row = replace(delivered(None), preview_url=preview)
    assert mended_preview(row, RULES) == (preview if expires else None)
