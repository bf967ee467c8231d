"""Checkpoints: written by Orbax in the background, sealed by a checksum manifest of our own."""
