"""The README's figures: each script writes a file in `results/`, and `benchmarks.readme` puts them into the tables."""
