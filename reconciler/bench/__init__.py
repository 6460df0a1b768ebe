"""What stands in for the outside: a local KIE, an embedded PostgreSQL, and the demo that uses both.

Imported by the command line, the tests and the benchmarks, never by the daemon.
"""
