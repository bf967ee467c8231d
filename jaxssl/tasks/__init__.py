"""Tasks: objectives with labels, and how their predictions are scored."""
