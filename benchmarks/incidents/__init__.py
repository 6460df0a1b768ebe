"""Ten staged incidents: each is made to happen, and what an operator sees of it is written to docs/INCIDENTS.md."""
