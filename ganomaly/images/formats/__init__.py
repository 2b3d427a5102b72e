"""One module for each kind of image file: it is decoded whole, or there is an error with its reason.

Each `read` raises the `ImageError` that `ganomaly.images.decoding.decode_image` describes.
"""
