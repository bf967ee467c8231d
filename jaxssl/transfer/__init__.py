"""Training part of a model that was trained before."""
