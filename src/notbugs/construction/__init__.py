"""The constructed datasets."""
