"""What runs at intervals: the scheduler, and one file for each periodic task.

`bootstrap/periodic.py` builds the tasks and gives each its name and its interval; none depends on another having run.
Only their one decision lives here: statements are in `postgres`, and visits in `worker`.
"""
