"""The demo: database, simulated KIE, local storage, the daemon, and a shop that orders generations, on one machine.

The command line calls `main`. The tests also use the embedded PostgreSQL.
"""

from reconciler.demo.run import main

__all__ = ["main"]
