"""What docs/INSTALL.md tells a person to type, as a script: every command of its `sh` blocks, in order, each echoed.

Where a person pastes a value, it comes from a file of the machine; where KIE and Supabase are meant, the stand-ins are.
Called by run.sh with the page's path; nothing else of the page is changed.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

PASTED = re.compile(r"^install .*/dev/stdin \S*/([A-Z_]+)$")
ADDRESSES = {"https://PROJECT.supabase.co": "http://127.0.0.1:8789"}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The heading and the text of every `sh` block."""
    heading = ""
    for title, block in re.findall(r"^## ([^\n]*)$|^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        heading = title or heading
        if block:
            yield heading, block


def commands(block: str) -> Iterator[str]:
    """The commands of a block; one that goes on over several lines is one."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command += "\n" + next(lines)
        if ended := re.search(r"<<'?(\w+)'?", line):
            for more in lines:
                command += "\n" + more
                if more == ended[1]:
                    break
        if command.strip():
            yield command


def typed(command: str) -> str:
    """The command with what a person would put in."""
    for written, meant in ADDRESSES.items():
        command = command.replace(written, meant)
    pasted = PASTED.match(command)
    return f"{command} </world/values/{pasted[1]}" if pasted else command


def script(page: str) -> str:
    """Everything, with the stand-ins begun once Python is there, and told to the daemon beside its settings."""
    said = ["set -euo pipefail"]
    for n, (heading, block) in enumerate(blocks(page)):
        said.append(f"printf '\\n## %s\\n' {shlex.quote(heading)}")
        for command in commands(block):
            said += [f"printf '$ %s\\n' {shlex.quote(command)}", typed(command)]
            if "> /etc/kie-reconciler/settings" in command:
                said.append("cat /world/values/settings >>/etc/kie-reconciler/settings")
        if n == 0:
            said.append(". /world/stand-ins.sh")
    return "\n".join(said) + "\n"


if __name__ == "__main__":
    sys.stdout.write(script(Path(sys.argv[1]).read_text()))
