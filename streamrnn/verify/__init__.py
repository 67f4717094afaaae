"""Whether a stream answers as the offline model does, and why not."""
