"""PolicyGuard (arXiv 2510.03485): does an agent's trajectory comply with rules, and how early can one know?"""
