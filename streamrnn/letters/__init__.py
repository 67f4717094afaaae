"""Dead letters: a file of refused events, read, and served once more."""
