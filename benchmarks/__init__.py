"""`make bench`: speed and memory, measured against a peer in the same run."""
