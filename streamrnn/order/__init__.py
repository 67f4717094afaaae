"""Events that came late, early or twice: who is refused, who waits, and in what order the others go on.

Read in this order: `policy` (what can be asked for), `definition` (what it means, event by event), `settle`
(the same for a whole batch), `seen` (which ids were met), `records` (waiting records as blocks), `waiting`
(all of it for one partition).
"""
