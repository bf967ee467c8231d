"""Attention: a pattern that says which keys a query sees, and kernels that compute it."""
