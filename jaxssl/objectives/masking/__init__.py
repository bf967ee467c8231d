"""Which tokens must be guessed, and what stands in their place: on device, row by row."""
