"""Which party a failure belongs to, and how long each party has failed a generation.

Pure like the rest of the domain. What a failed row does next is decided in `decide`, not here.
"""
