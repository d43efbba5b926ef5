"""Thud (arXiv 2605.16403): does the model listen, or does it guess what is heard from what is seen?"""
