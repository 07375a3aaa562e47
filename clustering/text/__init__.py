"""Texts in; their cleaned form, their languages, titles for them, and the fonts that draw them out."""
