"""The world of the demo model: a generator of a small town's life in plain English.

`corpus.documents` writes texts, `tasks` writes evaluation items, `ngram` is the Kneser-Ney model
that the demo model is measured against. Everything is a pure function of a split and a seed; the
standard library is enough (numpy for `ngram`).
"""
