"""Terms of objectives: value, gradient, proximal map."""
