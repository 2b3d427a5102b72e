"""One module for each kind of image file: it is decoded whole, or there is an error with its reason."""
