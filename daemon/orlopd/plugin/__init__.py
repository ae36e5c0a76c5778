"""The plugin API: interfaces, the values that cross them, errors and hook specifications."""
