"""The front-end: terminals log in here, and what they deliver is on disk before it is acknowledged."""
