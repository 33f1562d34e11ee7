"""Check environment and configs for learning-rate-free training: `dadapt-dist doctor [CONFIG...]`."""
