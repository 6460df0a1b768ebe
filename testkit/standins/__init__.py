"""Stand-ins for the servers outside: they speak real HTTP on loopback; no code of the package is replaced."""
