"""What runs at intervals: the scheduler, and one file for each periodic task."""
