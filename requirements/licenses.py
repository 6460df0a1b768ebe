"""Writes docs/LICENSES.md: the licence of every distribution that runs with us, as its own metadata tells it.

`make licenses` runs it; tests/contract/test_licenses.py sees that the page is what it would write anew.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "LICENSES.md"

# Pinned for other systems and so never installed here; what their projects declare.
ELSEWHERE = {"colorama": "BSD-3-Clause", "tzdata": "Apache-2.0"}

# What metadata older than SPDX expressions says, in the words of SPDX.
_SPDX = {
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_HEAD = """\
# Licences

What runs beside our own code (MIT, see [LICENSE](../LICENSE)): every distribution of `requirements/run.txt`, and the
licence that its own metadata tells. `make licenses` writes this page; a test refuses a distribution that is missing
here, and any licence but MIT, BSD, Apache-2.0, PSF-2.0, MPL-2.0 and ISC.

| distribution | licence |
|---|---|
"""


def pinned() -> list[str]:
    """The names in requirements/run.txt, each once."""
    lines = (ROOT / "requirements" / "run.txt").read_text().splitlines()
    return sorted({found[1] for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)(?:\[.+\])?==", line))})


def licence(name: str) -> str:
    """The licence of an installed distribution in the words of SPDX; what it says itself where SPDX has none."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    told = metadata.metadata(name)
    if expression := told.get("License-Expression"):
        return str(expression)
    text = told.get("License") or ""
    if "Redistributions of source code must retain" in text and "Neither the name of" in text:
        return "BSD-3-Clause"
    marks = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    said = marks or [text.strip().partition("\n")[0]]
    return " AND ".join(_SPDX.get(one, one) for one in said)


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"| {name} | {licence(name)} |\n" for name in pinned())


if __name__ == "__main__":
    PAGE.write_text(page())
