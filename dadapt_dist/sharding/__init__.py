"""Which elements of a parameter a rank holds, and how many ranks hold the same."""
