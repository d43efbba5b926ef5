"""ThinkGuard (arXiv 2502.13458): a text guard that learns to say why."""
