"""Mathematics as plain jnp functions: no flax, no configuration, no state."""
