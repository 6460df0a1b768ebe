"""Reads that change nothing: figures, lists, details of a generation, the change feed, the activity of replicas."""
