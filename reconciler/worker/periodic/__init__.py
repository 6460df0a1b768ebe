"""What runs at intervals: the scheduler, and one file for each periodic task.

Every task has a `name`, an `interval` and one `run_once`, and none depends on another having run. Only their timing and
their one decision live here: statements are in `postgres`, and visits in `worker`. `bootstrap/periodic.py` builds them.
"""
