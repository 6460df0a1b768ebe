"""createTask: the only code that may spend money. It writes the row first, then asks KIE once."""
