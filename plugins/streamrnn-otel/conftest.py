"""Lies beside the package so that its tests find it without an installation."""
