"""Surface extraction from Gaussians."""
