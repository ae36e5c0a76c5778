"""The gRPC faces of the core: translate, call, map errors."""
