"""`python -m cargo_registry` and `cargo-registry`: the command line."""

from cargo_registry.cli.main import main

if __name__ == "__main__":
    main()
