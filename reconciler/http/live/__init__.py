"""Server-sent events: the hub that looks changes up and distributes them, and the open streams."""
