"""Small tasks in pure JAX, each of which isolates one thing."""
