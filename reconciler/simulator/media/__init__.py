"""The bytes of simulated results: small pictures, films and sounds that real players accept. Pure."""
