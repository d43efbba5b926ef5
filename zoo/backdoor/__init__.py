"""The backdoor audit: models with known backdoors, their clean twins, and detectors that are measured on both."""
