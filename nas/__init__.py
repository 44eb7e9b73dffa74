"""opnas: neural architecture search over operator choices, on measured cost."""
