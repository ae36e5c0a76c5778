"""Test kits that tell a plugin's author whether the plugin is right."""
