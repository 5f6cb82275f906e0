"""Plain NumPy/CuPy implementations: the definition of right that every kernel is held to."""
