"""What a model is worth: accuracy, suites of attacks, checks, intervals, the table of results."""
