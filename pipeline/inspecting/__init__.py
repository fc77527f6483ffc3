"""What `cli inspect` is made of: a raw file, a raw tree or a store, as screen, page and data."""
