"""Many pipelines in one process, live for months, steered without a restart.

Read in this order: `hosted` (one pipeline on a thread of its own), `fleet` (all of them), `reload` (a
changed file while it runs), `commands` (what can be asked of one), `admin` (how it is asked).
"""
