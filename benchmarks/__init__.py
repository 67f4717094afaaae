"""Events per CPU second against hand-written loops, all in one run; `python -m benchmarks --help`."""
