"""The content store: blobs as files named by digest."""
