"""The erofs snapshotter."""
