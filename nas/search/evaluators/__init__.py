"""What judges a network within a trial: its training, a score of it untrained, or one of your own; and filters."""
