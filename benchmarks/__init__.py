"""The project's own measurements; each one is a command."""
