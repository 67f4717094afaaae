"""The pipeline file: read strictly, checked as a whole, turned into settings."""
