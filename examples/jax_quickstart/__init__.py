"""A port of the small model of torch_quickstart to JAX."""
