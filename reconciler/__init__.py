"""kie-reconciler: whoever paid for a KIE.ai generation gets it."""

__version__ = "0.2.0.dev0"
