"""Text in, fixed-shape numpy batches out. No jax here."""
