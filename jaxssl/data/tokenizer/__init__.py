"""Tokenizers: loaded, trained, exported, and what they make of words."""
