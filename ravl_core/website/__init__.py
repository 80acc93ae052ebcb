"""The project as a static site: notebooks, documents and docstrings become pages that fetch nothing and run nothing."""
