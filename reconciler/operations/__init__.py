"""What a person or a route asks for: sync, retry, backfill, audit, explain, doctor, and the rates that `top` shows.

Commands and routes call these. An operation prints nothing and knows no HTTP request. `cleanup` is in
`worker/periodic/retention.py`.
"""
