"""Files that cannot be decoded: found, named, and replaced by other samples."""
