"""The vfs snapshotter."""
