"""Which instance may write which generation, and until when."""
