"""3D Gaussians: the cloud, rotations, spherical harmonics and densification."""
