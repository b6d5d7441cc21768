"""Sphinx configuration. Nothing is fetched to build or to read the pages."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "2")  # before the examples import torch
DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS / "extensions")]

import generate  # noqa: E402

import deeplab  # noqa: E402

generate.write_all(DOCS / "made")

project = "DeepLab and densecrf"
author = "the authors of this repository"
version = release = deeplab.__version__
html_title = f"DeepLab and densecrf {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "mathml",
]
exclude_patterns = [
    "_build",
    "made/parts",
    "gallery/**.ipynb",
    "gallery/**.py",
    "gallery/**.zip",
    "gallery/**.json",
]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "smartquotes"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}  # in place of the union that it stands for
autosummary_generate = False
python_maximum_signature_line_length = 88
add_module_names = False

html_show_copyright = False
html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"draw_shapes\.py$",  # the tutorial's first step; it draws files, not a picture
    "within_subsection_order": "gallery.Order",
    "image_scrapers": ("matplotlib", "gallery"),
    "reset_argv": "gallery.arguments",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 0,
    "remove_config_comments": True,
    "abort_on_example_error": False,
    "plot_gallery": True,
    "nested_sections": False,
    "log_level": {"backreference_missing": "info"},
}
