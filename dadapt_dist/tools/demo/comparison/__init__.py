"""One training under several layouts, compared by the d that it finds."""
