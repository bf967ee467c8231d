"""Vectors of texts, trained by comparing the texts of a batch with each other."""
