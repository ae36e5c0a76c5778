"""The gRPC faces of ``orlop.engine.v1``."""
