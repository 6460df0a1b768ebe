"""`run` until the command line is there."""

import asyncio
import sys

from reconciler import daemon, log, settings
from reconciler.errors import Config

try:
    chosen = settings.load()
    log.setup(level=chosen.log_level, form="json", secrets=chosen.secrets())
    code = asyncio.run(daemon.run(chosen, observe="--observe" in sys.argv))
except Config as error:
    print(f"{error}; {error.hint}", file=sys.stderr)  # noqa: T201
    code = 2
sys.exit(code)
