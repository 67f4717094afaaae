"""Prints, for each fault put into a job, after how many seeds it shows, and in how many.

python tests/sabotages.py 150
"""

from __future__ import annotations

import sys

from crash_ends import ROTATION_SABOTAGES, RotatedJob
from crash_follow import FOLLOW_SABOTAGES, FollowedJob
from crash_harness import SABOTAGES, Job, run_seed

TABLES = {
    "files to a file": ([Job()], SABOTAGES),
    "outputs that are rotated": ([RotatedJob()], ROTATION_SABOTAGES),
    "a log that is followed": ([FollowedJob(seed=seed, n_events=40) for seed in range(5)], FOLLOW_SABOTAGES),
}


def main():
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for what, (jobs, sabotages) in TABLES.items():
        expected = [job.whole() for job in jobs]
        for name, sabotage in {f"none, {what}": None, **sabotages}.items():
            wrong = []
            for seed in range(most):
                which = seed % len(jobs)
                if run_seed(jobs[which], expected[which], seed, sabotage).wrong:
                    wrong.append(seed)
            first = f"seed {wrong[0] + 1}" if wrong else "never"
            print(f"| {name} | {first} | {len(wrong)} of {most} |", flush=True)


if __name__ == "__main__":
    main()
