"""Serve recurrent models over event streams: one state per key, one output per event."""

__version__ = "0.1.0"
