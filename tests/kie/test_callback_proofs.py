"""The checks of a callback's proofs by themselves; tests/http/routes/test_callback_proofs.py tries them by requests."""

from __future__ import annotations

import time
from pathlib import Path

from reconciler import settings
from reconciler.kie.callback_proofs import CallbackProofs

BOTH = CallbackProofs(b"the-secret", b"the-key")


def test_the_settings_define_the_proofs_and_repr_does_not_show_them(tmp_path: Path) -> None:
    assert CallbackProofs.from_settings(settings.load({}, tmp_path)) == CallbackProofs()
    both = settings.load({"KIE_CALLBACK_SECRET": "the-secret", "KIE_WEBHOOK_HMAC_KEY": "the-key"}, tmp_path)
    assert CallbackProofs.from_settings(both) == BOTH
    assert "the-key" not in repr(BOTH)


def test_the_head_is_refused_with_the_reason_until_secret_timestamp_and_signature_are_there() -> None:
    now, signature = str(int(time.time())), "s" * 44
    assert "configured" in (CallbackProofs().refuse_head(["the-secret"], now, signature) or "")
    assert "secret" in (BOTH.refuse_head([], now, signature) or "")
    assert "secret" in (BOTH.refuse_head(["the-secret", "the-secret"], now, signature) or "")
    assert "timestamp" in (BOTH.refuse_head(["the-secret"], "", signature) or "")
    assert "signature" in (BOTH.refuse_head(["the-secret"], now, "") or "")
    assert BOTH.refuse_head(["the-secret"], now, signature) is None


def test_the_signature_covers_task_and_timestamp_and_is_not_needed_without_a_key() -> None:
    signature = "diYY62zxsP2BFxtYj0YyvQeMUZQI0yiCknnho5HSdmY="  # of abc123.1700000000 with test-key, computed by hand
    proofs = CallbackProofs(signing_key=b"test-key")
    assert proofs.refuse_signature(signature, "1700000000", "abc123") is None
    for timestamp, task_id in (("1700000001", "abc123"), ("1700000000", "abc124"), ("", "")):
        assert "signature" in (proofs.refuse_signature(signature, timestamp, task_id) or "")
    assert CallbackProofs(b"the-secret").refuse_signature("", "", "abc123") is None
