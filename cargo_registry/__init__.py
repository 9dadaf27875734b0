"""A Cargo registry and crates.io mirror."""
