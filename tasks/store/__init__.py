"""The report store: images, runs, scores, reviews, promotions."""
