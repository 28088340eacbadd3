"""How Sphinx makes the pages: sphinx-build -W docs build/docs"""

project = "amun_ray"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["images"]
default_role = "code"  # `x` in a docstring is code, as in Markdown
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing", "myst.header"]  # links to files of the repository, which are no pages
autodoc_typehints = "signature"
