"""One outside thing each: PostgreSQL, KIE, result hosts, storage, the spool's disk.

Edges raise the errors of `reconciler.errors` and nothing else. Those of the database, of KIE, of fetching and of
storage do not know each other. The engine and the doors call them; no opinion about a generation lives here.
"""
