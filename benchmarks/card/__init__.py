"""The parts of the validation card: each takes the beds' points and gives Markdown.

What a part says is computed; where numbers decide a sentence, code chooses it.
"""
