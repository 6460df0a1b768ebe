"""What a person or a route asks for: sync, retry, backfill, audit, cleanup, explain, doctor.

Commands and routes call these. An operation prints nothing and knows no HTTP request.
"""
