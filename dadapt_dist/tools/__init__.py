"""The command line and its tools: doctor, bench and demo."""
