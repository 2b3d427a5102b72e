"""Which images show one part, and what each part is used for."""
