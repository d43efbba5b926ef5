"""RedCoder (arXiv 2507.22063): can a conversation lead a code model into writing vulnerable code, step by step?

Defensive evaluation. Nothing that a victim writes is executed: static analysers read it.
"""
