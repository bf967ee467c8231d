"""Conversations: read from tables, written by a tokenizer's template, as rows to train on."""
