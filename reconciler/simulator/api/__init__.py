"""The simulated KIE on the wire: routes, envelopes, result files, callbacks, and what goes wrong with them."""
