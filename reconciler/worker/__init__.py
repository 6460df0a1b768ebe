"""What makes things happen: claims become visits, and a visit polls KIE, delivers results and writes the outcome.

Read worker -> visit -> domain/decide -> deliver -> postgres/ledger to follow one generation. `create` orders tasks,
`periodic` does what the clock asks for. Opinions live in `domain`, statements in `postgres`. The operations, the HTTP
API and the daemon call in here.
"""
