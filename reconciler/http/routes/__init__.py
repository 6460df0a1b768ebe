"""One file for each family of routes: it reads the request, calls an operation, and writes the answer.

A route holds no SQL and decides nothing about a generation.
"""
