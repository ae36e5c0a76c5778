"""Resolvers for images that lie in directories and archives of this machine."""
