"""Figures for print: one module per family; each function returns a Matplotlib figure that `style.save` writes."""
