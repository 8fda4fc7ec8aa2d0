"""The theory of two Gaussians, in closed form and checked."""
