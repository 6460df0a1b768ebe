"""The HTTP server: the application, authentication, request limits, error answers, and the routes.

A route reads the request, calls `worker`, `operations` or `postgres`, and writes the answer. It holds no SQL and
decides nothing about a generation. `bootstrap/http.py` builds what the routes need.
"""
