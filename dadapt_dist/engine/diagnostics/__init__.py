"""Messages about runs that are likely to go wrong; each is logged once."""
