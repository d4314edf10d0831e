"""Collect and analyse the uncertainty of language models.

The modules are rooms of one corridor; a module imports only from those to its left::

    questions -> prompts -> measures -> responses -> statistics -> figures -> ledger -> pipeline
"""

__version__ = "0.1.0"
