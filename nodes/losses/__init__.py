"""One node per loss, their sum and their schedule."""
