"""Figures for print: a module a family; each function returns a Matplotlib figure that `style.save` writes."""
