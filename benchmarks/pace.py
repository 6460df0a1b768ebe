"""Prints the delay of every poll policy in `testkit/poll_simulation.py`: `python -m benchmarks.pace`."""

from __future__ import annotations

from testkit.poll_simulation import table


def main() -> None:
    """Print the table."""
    print(*table(), sep="\n")


if __name__ == "__main__":
    main()
