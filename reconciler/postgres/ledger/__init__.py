"""Every fenced write about a claimed generation: facts, receipts, results, failures, repairs.

A write that names no lease does not belong here. The exceptions are `verification` and `reopen`: they change nothing
while a lease is held.
"""
