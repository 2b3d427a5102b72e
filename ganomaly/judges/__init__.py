"""What turns prepared images into raw scores and maps: one judge for each kind of input."""
