"""kie-reconciler: whoever paid for a KIE.ai generation gets it."""

__version__ = "0.1.0"
