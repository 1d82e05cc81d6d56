"""Multiple-choice questions about images: lists of them, replies, and accuracies beside those of the paper."""
