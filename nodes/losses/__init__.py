"""One node per loss, and their sum."""
