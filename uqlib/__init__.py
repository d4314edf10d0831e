"""Collect and analyse the uncertainty of language models.

The modules are rooms of one corridor; a module imports only from those to its left::

    questions -> prompts -> measures -> responses -> statistics -> figures -> ledger -> pipeline
"""

import warnings

__version__ = "0.1.0"

# Progress bars are plain text here; without this, a kernel prints a warning with its own path.
warnings.filterwarnings("ignore", message="IProgress not found")
