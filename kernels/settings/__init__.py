"""What classes of settings share."""
