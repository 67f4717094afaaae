"""Lies beside the module so that its tests find it without an installation."""
