"""What things mean: namespaces, images, containers, leases, events. Knows the plugin API and no protobuf."""
