"""KIE's API: the client, the createTask request, the proofs of its callbacks, and the dialects of its records.

Only `create_task.py` reaches a paid endpoint. `dialects` is pure. Which key is used and when is decided in `worker/`.
"""
