"""The bytes of simulated results: small images, videos and sounds that real players accept. Pure."""
