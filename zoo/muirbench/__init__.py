"""MuirBench (arXiv 2406.09411): does a model look at every picture, and does it say when there is no answer?"""
