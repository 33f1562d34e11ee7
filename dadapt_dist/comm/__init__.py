"""Ranks and collectives: the communicator, its process group, and the one asynchronous all-reduce of a step."""
