"""A close look at inverted images, for Reviewer 1."""
