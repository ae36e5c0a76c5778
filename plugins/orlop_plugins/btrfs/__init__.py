"""The btrfs snapshotter."""
