"""How long good rows wait beside a bad neighbour: `python -m benchmarks.neighbours`."""
