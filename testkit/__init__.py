"""What tests and benchmarks share: the daemon and its commands as real processes, and all that surrounds them.

No test lives here and nothing here is shipped. It imports the package, but neither tests nor benchmarks.
"""
