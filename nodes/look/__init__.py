"""What was made, looked at and measured."""
