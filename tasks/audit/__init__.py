"""What led to a verdict, and whether it still comes out."""
