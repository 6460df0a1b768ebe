"""The HTTP side of the simulator: routes, envelopes, result files, callbacks, and their faults."""
