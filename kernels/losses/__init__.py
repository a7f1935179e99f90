"""Score distillation losses, one file per method."""
