"""What does a step cost, beside its peers and beside what memory and network allow? `dadapt-dist bench`."""
