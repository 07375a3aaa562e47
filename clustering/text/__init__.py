"""What is known of a text by itself: its cleaned form, its language, a title, the fonts that draw it."""
