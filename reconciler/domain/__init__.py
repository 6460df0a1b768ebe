"""The opinion of the house: frozen values and pure functions over them.

No I/O, no clock, no randomness, no logging: what is needed is given in. Everything above may import this.
"""
