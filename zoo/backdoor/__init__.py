"""The backdoor audit: models planted on purpose, and detectors that have to find them (arXiv 2409.00399)."""
