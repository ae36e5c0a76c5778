"""The overlayfs snapshotter."""
