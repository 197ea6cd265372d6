"""How results are shown: `render` gives any format, `show` prints it; charts lie beside them.

Pure functions of results and of what the store holds; no torch.
"""

from evalkit.view.rendering import check_format, formats, render, show

__all__ = ["check_format", "formats", "render", "show"]
