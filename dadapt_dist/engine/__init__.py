"""One torch optimizer: when a step begins and ends, and how the sums of all ranks become the next d."""
