"""Every fenced write about a claimed generation: facts, receipts, results, failures, repairs.

A write that names no lease does not belong here, except `verification` and `reopen`, which step back while one is held.
"""
