"""Trains networks of a finished search again, by the workers of the search."""
