"""The models that ship with streamrnn."""
