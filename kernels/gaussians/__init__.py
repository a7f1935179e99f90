"""3D Gaussians: the cloud, its initialisers, cameras, rasterizers and densification."""
