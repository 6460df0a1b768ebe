"""The path of a result from its host to our storage: fetched, sniffed, spooled.

Nothing here knows rows or decides what is fetched: `worker/deliver.py` calls `fetch.py`, and a backend reads the spool.
"""
