"""The resolver for registries that speak the OCI distribution protocol or Docker's v2."""
