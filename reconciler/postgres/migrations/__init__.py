"""Applying the SQL files: which exist, in which order they apply, and how a migration waits for locks."""
