"""How people and programs get in: the web door, and the chores behind the commands.

A door translates: it reads what is asked, calls engine and edges, and says the outcome. No SQL, no rules, no composing
of parts; the daemon and the command line bring everything a door needs.
"""
