"""The miniature: the small demonstration model shipped with the package, with its clips, training and evaluation."""
