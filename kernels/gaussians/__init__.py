"""3D Gaussians: the cloud, its initialisers, spherical harmonics and densification."""
