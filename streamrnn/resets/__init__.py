"""The reset rules that ship with streamrnn."""
