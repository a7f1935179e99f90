"""Socket types, outputs, validation and pictures, for all rooms."""
