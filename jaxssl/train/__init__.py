"""The training loop and what goes on around it: validation, logs, samples, ways to end."""
