"""KIE's API: the client, the createTask request, the proofs of its callbacks, and the dialects of its answers.

Only `create_task` reaches a paid endpoint. `dialects` is pure.
"""
