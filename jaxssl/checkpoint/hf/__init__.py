"""Hugging Face directories in and out: one mapping file per family, used both ways."""
