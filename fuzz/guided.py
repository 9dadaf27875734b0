"""Coverage-guided fuzzing of one target: `python -m fuzz.guided TARGET [options of libFuzzer] [folders]`.

libFuzzer by way of atheris: https://github.com/google/atheris, https://llvm.org/docs/LibFuzzer.html
"""

import sys

import atheris

# What is imported here is instrumented; the libraries below it stay as they are, and fast.
with atheris.instrument_imports(include=["cargo_registry.crate", "cargo_registry.web.body"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz; libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
