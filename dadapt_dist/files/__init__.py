"""Safe reading of files that somebody else may have written."""
