"""Parameter-efficient transfer: one file a method."""
