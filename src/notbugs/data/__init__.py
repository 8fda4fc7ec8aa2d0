"""Images in memory and on disk, and where they come from."""
