"""Question tables: one module a source, one schema (`uqlib.questions.schema`)."""
