"""Optimizers, schedules and rules over parameter names, on top of Optax."""
