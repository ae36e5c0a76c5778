"""Parts that another process serves as containerd's proxy plugins."""
