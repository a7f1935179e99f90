"""2D diffusion models as a loss sees them: embed, encode, noise, predict, decode."""
