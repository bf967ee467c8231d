"""Text out of a model: sampling with a cache, and filling masks."""
