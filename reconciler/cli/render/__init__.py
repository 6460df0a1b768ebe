"""How answers look on a terminal: tables, progress bars, the live view. Nothing here asks for anything."""
