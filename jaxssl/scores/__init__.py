"""Scores of downstream tasks, on the host: arrays and lists in, plain numbers out."""
