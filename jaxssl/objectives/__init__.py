"""What a model is trained to do: each objective a frozen dataclass of pure functions."""
