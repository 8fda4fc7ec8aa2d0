"""Usefulness of features, robust or not: on D, under attack, and on every constructed dataset."""
