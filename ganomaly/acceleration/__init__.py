"""Code that exists for speed alone: without it results are the same within rounding, and slower."""
