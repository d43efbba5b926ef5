"""Experiments as data: what a paper claims, run again (`python -m zoo.reproduce`)."""
