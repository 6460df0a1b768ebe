"""A storm of faults over running replicas, the same for the same seed: `python -m benchmarks.chaos --faults 500`."""
