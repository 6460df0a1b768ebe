"""One outside thing a file: PostgreSQL, KIE, the sources, storage. They do not know each other.

Edges raise the errors of `reconciler.errors` and nothing else; they log little and decide nothing. The engine calls them.
"""
