"""The whole experiment in a small world whose features are planted, and so known."""
