"""Codecs: bytes to columns and back, and the framers that find records in a stream."""
