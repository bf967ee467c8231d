"""The training loop and what it writes: state, step, metrics, checkpoints' schedule, watchdog."""
