"""Commits of a pipeline: source, state and outputs of one moment, to go on from after a crash.

Read in this order: `manifest` (what a commit says), `writer` (how one is made), `recovery` (how one is found
again), `job` (the pipeline that does both).
"""
