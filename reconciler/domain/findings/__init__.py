"""The findings of the whole system, and the figures from which they follow."""
