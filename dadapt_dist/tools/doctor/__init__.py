"""Is everything right for learning-rate-free training here? `dadapt-dist doctor [CONFIG...]`."""
