"""The checks of a callback's proofs by themselves; tests/http/routes/test_callback_proofs.py tries them by requests."""

from __future__ import annotations

from pathlib import Path

from reconciler import settings
from reconciler.kie.callback_proofs import CallbackProofs

BOTH = CallbackProofs(b"the-secret", b"the-key")


def test_the_settings_define_the_proofs_and_repr_does_not_show_them(tmp_path: Path) -> None:
    assert CallbackProofs.from_settings(settings.load({}, tmp_path)) == CallbackProofs()
    both = settings.load({"KIE_CALLBACK_SECRET": "the-secret", "KIE_WEBHOOK_HMAC_KEY": "the-key"}, tmp_path)
    assert CallbackProofs.from_settings(both) == BOTH
    assert "the-key" not in repr(BOTH)
