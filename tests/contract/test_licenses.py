"""docs/LICENSES.md lists every distribution that runs with the daemon, each under a licence that a shop may use."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TAKEN = {"MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "MPL-2.0", "ISC"}


@pytest.fixture(scope="module")
def listing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licenses", ROOT / "requirements" / "licenses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed() -> dict[str, str]:
    rows = re.findall(r"^\| ([a-z0-9._-]+) \| (.+) \|$", (ROOT / "docs" / "LICENSES.md").read_text(), re.MULTILINE)
    return {name: licence for name, licence in rows if name != "distribution"}


def test_every_distribution_that_runs_is_listed_and_no_other() -> None:
    text = (ROOT / "requirements" / "run.txt").read_text()
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.+\])?==", text, re.MULTILINE)
    assert len(set(pinned)) > 50
    assert set(listed()) == set(pinned)


def test_every_licence_is_one_that_asks_no_shop_to_publish_its_own_code() -> None:
    words = {name: set(re.split(r" (?:AND|OR) ", licence)) for name, licence in listed().items()}
    assert not {name: found - TAKEN for name, found in words.items() if found - TAKEN}


def test_the_page_says_what_the_installed_metadata_says(listing: ModuleType) -> None:
    assert listing.page() == (ROOT / "docs" / "LICENSES.md").read_text()
