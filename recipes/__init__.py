"""Recipes: package data. A recipe's first line is the command that runs it."""
