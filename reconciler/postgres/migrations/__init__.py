"""Applying the SQL files: which files there are, in which order, and how a migration waits for locks."""
