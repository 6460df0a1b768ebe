"""Questions about many rows that change nothing: figures, lists, details, the change feed, the activity of replicas."""
