"""A clock, work that is put off, and a log for simulated lives."""

from __future__ import annotations

import logging


class Ticks:
    """A clock on which some time has passed whenever it is looked at."""

    def __init__(self, rng):
        self.rng, self.now_s = rng, 0.0

    def monotonic(self):
        self.now_s += self.rng.random()
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


class Later:
    """Work that is done some turns after it was begun, at the latest when it is waited for."""

    def __init__(self, work, rng):
        self.work, self.rng, self.error = work, rng, None

    def done(self):
        if self.rng.random() < 0.5:
            self.run()
        return self.work is None

    def result(self):
        self.run()
        if self.error is not None:
            raise self.error

    def run(self):
        work, self.work = self.work, None
        try:
            if work is not None:
                work()
        except Exception as error:
            self.error = error


class Log(logging.Handler):
    """What was told as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())
