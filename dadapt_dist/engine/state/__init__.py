"""Per-parameter buffers and parameter groups: made, checked, saved and loaded."""
