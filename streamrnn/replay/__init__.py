"""A recorded input through a pipeline once more, on a clock that stands still, and what came of it then.

Read in this order: `replay` (the pipeline without its ends), `until` (where it stops), `begin` (the commit it
begins with), `outputs` (both sides as records), `compare`, `report`, `play` (all of it).
"""
