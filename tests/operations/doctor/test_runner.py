"""`doctor` as a whole: every check once and in its order, all well on a good installation, never a crash or a trace."""

from __future__ import annotations

from reconciler.operations.doctor import NAMES
from tests.operations.doctor.installation import Surgery, amiss


async def test_a_good_installation_is_all_ok_and_every_check_is_told_once_in_its_order(shared: Surgery) -> None:
    checks = await shared.look()
    assert tuple(checks) == NAMES
    assert amiss(checks) == {}
