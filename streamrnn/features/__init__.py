"""The features that ship with streamrnn."""
