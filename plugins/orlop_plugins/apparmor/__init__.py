"""AppArmor's default profile of containers."""
