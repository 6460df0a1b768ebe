"""The rules about generations: frozen values, and pure functions over them.

No I/O, no clock, no randomness, no logging: callers pass in the time and everything else. Every other package may
import this one; it imports no other.
"""
