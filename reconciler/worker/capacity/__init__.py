"""Who may transfer or poll at this moment: slots shared by result host and KIE path, and breakers for silent ones.

`FairSlots` bounds what runs at once, `Breakers` keep rows from hosts and paths that say nothing, `Returns` spread the
rows that were sent back. `deliver.py` and `poll.py` ask here; nothing here reads a row or decides about one.
"""
