"""Handlers of mounts: loop, erofs, overlay, bind."""
