"""Text from files, the hub or installed packages, as documents, and as a token store."""
