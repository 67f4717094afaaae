"""Listening sockets and the connections made to them, without threads; the socket ends are built on it."""
