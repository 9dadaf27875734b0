"""Whether something that is well-formed may be published here: one rule per function, pure."""
