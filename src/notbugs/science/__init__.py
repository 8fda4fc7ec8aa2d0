"""The paper's theory and what its readers asked, as measurements: one noun a module, no files, no tracking."""
