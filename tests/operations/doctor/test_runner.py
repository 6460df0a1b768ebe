"""`doctor` as a whole: each check is made once and in order, and on a good installation each is ok."""

from __future__ import annotations

from reconciler.operations.doctor import NAMES
from tests.operations.doctor.installation import Installation, not_ok


async def test_on_a_good_installation_every_check_is_ok_and_made_once_in_order(shared: Installation) -> None:
    checks = await shared.examine()
    assert tuple(checks) == NAMES
    assert not_ok(checks) == {}
