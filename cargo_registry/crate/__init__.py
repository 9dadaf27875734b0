"""What a crate is: names, versions, manifests, tarballs, index entries. Pure; no I/O but reading a given file."""
