"""What a crate is: names, versions, manifests, tarballs, index entries. Pure but for reading a given file."""
