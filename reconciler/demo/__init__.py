"""The whole job on one machine: database, KIE, storage, daemon, and a shop that orders.

`main` is called by the command line; nothing else of the project knows the demo.
"""

from reconciler.demo.run import main

__all__ = ["main"]
