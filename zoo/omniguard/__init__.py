"""OmniGuard (arXiv 2512.02306): one guard for text, pictures, sound and video."""
